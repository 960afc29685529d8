import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mim_encoder import MaskRatio, random_mask


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(batch=st.integers(1, 5), num_patches=st.integers(1, 60), percent=st.integers(0, 100))
def test_a_fixed_ratio_hides_exactly_its_ceiling_in_every_image(batch, num_patches, percent):
    ratio = MaskRatio(low=percent / 100, high=percent / 100)
    masked = random_mask(batch, num_patches, ratio, generator=seeded())
    assert masked.dtype == torch.bool
    assert masked.shape == (batch, num_patches)
    assert masked.sum(1).tolist() == [-(-num_patches * percent // 100)] * batch


@pytest.mark.parametrize(("percent", "num_patches"), [(60, 25), (15, 100), (30, 4100)])
def test_rounding_of_the_share_hides_no_extra_patch(percent, num_patches):
    ratio = MaskRatio(low=percent / 100, high=percent / 100)
    masked = random_mask(1, num_patches, ratio, generator=seeded())
    assert masked.sum() == num_patches * percent / 100


@settings(derandomize=True, deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), law=st.sampled_from(["truncnorm", "uniform"]))
def test_a_batch_shares_one_count_within_the_bounds(seed, law):
    counts = random_mask(7, 256, MaskRatio(law=law), generator=seeded(seed)).sum(1)
    assert counts.unique().numel() == 1
    assert 103 <= counts[0] <= 154


def test_images_of_a_batch_hide_different_patches():
    masked = random_mask(32, 64, MaskRatio(), generator=seeded())
    assert masked.unique(dim=0).shape[0] == 32


def test_every_patch_is_hidden_equally_often():
    masked = random_mask(20_000, 10, MaskRatio(low=0.3, high=0.3), generator=seeded())
    standard_error = math.sqrt(0.3 * 0.7 / 20_000)
    assert (masked.float().mean(0) - 0.3).abs().max() < 4 * standard_error


def test_places_are_independent_of_each_other():
    masked = random_mask(20_000, 6, MaskRatio(low=0.5, high=0.5), generator=seeded()).double()
    together = (masked[:, :1] * masked[:, 1:]).mean(0)
    expected = 0.5 * 2 / 5
    assert (together - expected).abs().max() < 4 * math.sqrt(expected / 20_000)


def truncnorm_cdf(share, low, high):
    normal = NormalDist(high, 0.25)
    return (normal.cdf(share) - normal.cdf(low)) / (0.5 - normal.cdf(low))


def uniform_cdf(share, low, high):
    return (share - low) / (high - low)


@pytest.mark.parametrize(("low", "high"), [(0.4, 0.6), (0.0, 1.0)])
@pytest.mark.parametrize(("law", "cdf"), [("truncnorm", truncnorm_cdf), ("uniform", uniform_cdf)])
def test_hidden_share_follows_its_law(law, cdf, low, high):
    generator, num_patches, draws = seeded(), 1000, 2000
    ratio = MaskRatio(low=low, high=high, law=law)
    shares = sorted(
        random_mask(1, num_patches, ratio, generator=generator).sum().item() / num_patches
        for _ in range(draws)
    )
    gap = max(abs(cdf(share, low, high) - (i + 0.5) / draws) for i, share in enumerate(shares))
    # Kolmogorov's 1 % point, plus the rounding up to whole patches.
    assert gap < 1.63 / math.sqrt(draws) + 1 / (num_patches * (high - low)) + 0.5 / draws


def test_the_two_laws_can_be_told_apart_by_that_bound():
    middle = 0.3
    gap = abs(truncnorm_cdf(middle, 0.0, 1.0) - uniform_cdf(middle, 0.0, 1.0))
    assert gap > 0.2


def test_same_generator_state_gives_the_same_mask():
    first = random_mask(3, 50, MaskRatio(), generator=seeded(5))
    assert torch.equal(first, random_mask(3, 50, MaskRatio(), generator=seeded(5)))
    assert not torch.equal(first, random_mask(3, 50, MaskRatio(), generator=seeded(6)))


def test_global_random_state_is_left_alone_when_a_generator_is_given():
    before = torch.get_rng_state()
    random_mask(2, 9, MaskRatio(), generator=seeded())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("generator", "device", "source", "target"),
    [(seeded(), "meta", "cpu", "meta"), (None, "meta", "meta", "meta"), (None, None, None, "cpu")],
)
def test_mask_is_drawn_where_the_generator_lives(monkeypatch, generator, device, source, target):
    drawn_on, rand = [], torch.rand

    def spy(*args, device, **kwargs):
        drawn_on.append(None if device is None else torch.device(device).type)
        return rand(*args, device=device, **kwargs)

    monkeypatch.setattr(torch, "rand", spy)
    masked = random_mask(2, 9, MaskRatio(), generator=generator, device=device)
    assert set(drawn_on) == {source}
    assert masked.device.type == target
