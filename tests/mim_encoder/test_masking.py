import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

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


def hidden_shares(ratio, *, draws, num_patches):
    """Shares drawn one per call, or all in one call if each image has its own."""
    generator = seeded()
    batch = draws if ratio.per_sample else 1
    calls = [
        random_mask(batch, num_patches, ratio, generator=generator) for _ in range(draws // batch)
    ]
    counts = torch.cat(calls).sum(1).double()
    return (counts - 0.5) / num_patches  # a count is the share rounded up


def truncnorm(low, high):
    return stats.truncnorm((low - high) / 0.25, 0, loc=high, scale=0.25)


def uniform(low, high):
    return stats.uniform(low, high - low)


@pytest.mark.parametrize("per_sample", [False, True], ids=["per-call", "per-sample"])
@pytest.mark.parametrize(("low", "high"), [(0.4, 0.6), (0.0, 1.0)])
@pytest.mark.parametrize("law", [truncnorm, uniform], ids=["truncnorm", "uniform"])
def test_hidden_share_follows_its_law(law, low, high, per_sample):
    ratio = MaskRatio(low=low, high=high, law=law.__name__, per_sample=per_sample)
    shares = hidden_shares(ratio, draws=2000, num_patches=2003)
    assert stats.kstest(shares.numpy(), law(low, high).cdf).pvalue > 0.01


@pytest.mark.parametrize(("law", "other"), [("uniform", truncnorm), ("truncnorm", uniform)])
def test_that_test_tells_the_two_laws_apart(law, other):
    ratio = MaskRatio(low=0.0, high=1.0, law=law, per_sample=True)
    shares = hidden_shares(ratio, draws=2000, num_patches=2003)
    assert stats.kstest(shares.numpy(), other(0.0, 1.0).cdf).pvalue < 1e-9


def test_truncnorm_has_the_published_mean_and_deviation():
    shares = hidden_shares(MaskRatio(per_sample=True), draws=8000, num_patches=499)
    assert abs(shares.mean() - 0.505) < 0.0005 + 4 * 0.057 / math.sqrt(8000)
    assert abs(shares.std() - 0.057) < 0.0005 + 0.002


def test_shares_per_sample_differ_within_a_batch_and_stay_within_the_bounds():
    counts = random_mask(64, 256, MaskRatio(per_sample=True), generator=seeded()).sum(1)
    assert counts.unique().numel() > 20
    assert counts.min() >= 103
    assert counts.max() <= 154


@settings(derandomize=True, deadline=None, max_examples=20)
@given(batch=st.integers(1, 5), num_patches=st.integers(1, 60), percent=st.integers(0, 100))
def test_a_fixed_ratio_per_sample_hides_exactly_its_ceiling_too(batch, num_patches, percent):
    ratio = MaskRatio(low=percent / 100, high=percent / 100, per_sample=True)
    masked = random_mask(batch, num_patches, ratio, generator=seeded())
    assert masked.sum(1).tolist() == [-(-num_patches * percent // 100)] * batch


def test_same_generator_state_gives_the_same_mask():
    first = random_mask(3, 50, MaskRatio(), generator=seeded(5))
    assert torch.equal(first, random_mask(3, 50, MaskRatio(), generator=seeded(5)))
    assert not torch.equal(first, random_mask(3, 50, MaskRatio(), generator=seeded(6)))


def test_global_random_state_is_left_alone_when_a_generator_is_given():
    before = torch.get_rng_state()
    random_mask(2, 9, MaskRatio(), generator=seeded())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(
    ("generator", "device", "source", "target"),
    [(seeded(), "meta", "cpu", "meta"), (None, "meta", "meta", "meta"), (None, None, None, "cpu")],
)
def test_mask_is_drawn_where_the_generator_lives(
    monkeypatch, generator, device, source, target, per_sample
):
    drawn_on, rand = [], torch.rand

    def spy(*args, device, **kwargs):
        drawn_on.append(None if device is None else torch.device(device).type)
        return rand(*args, device=device, **kwargs)

    monkeypatch.setattr(torch, "rand", spy)
    ratio = MaskRatio(per_sample=per_sample)
    masked = random_mask(2, 9, ratio, generator=generator, device=device)
    assert set(drawn_on) == {source}
    assert masked.device.type == target
