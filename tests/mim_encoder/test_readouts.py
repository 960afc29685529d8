import math

import pytest
import torch

from mim_encoder import LatentPosterior, latent_statistics, rate_bits


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_constant_encoder_is_dead_and_of_rank_zero():
    constant = normal(1, 5, 3).expand(7, -1, -1)
    statistics = latent_statistics(constant, sigma=0.3)
    assert statistics.std_across_images == 0
    assert statistics.effective_rank == 0
    assert statistics.dead_share == 1
    assert statistics.mean == pytest.approx(constant.mean().item())
    assert statistics.std == pytest.approx(constant.std(correction=0).item())


def test_a_constant_encoder_is_dead_without_noise_too():
    assert latent_statistics(torch.ones(3, 5, 2), sigma=0.0).dead_share == 1


def test_isotropic_latents_have_full_effective_rank():
    every_direction = torch.cat([torch.eye(15), -torch.eye(15)])
    statistics = latent_statistics(every_direction.reshape(30, 5, 3), sigma=0.3)
    assert statistics.effective_rank == pytest.approx(15, abs=1e-9)


def test_few_images_bound_the_effective_rank():
    corners_of_a_simplex = torch.eye(8, 15)
    statistics = latent_statistics(corners_of_a_simplex.reshape(8, 5, 3), sigma=0.3)
    assert statistics.effective_rank == pytest.approx(7, abs=1e-9)


def test_many_normal_latents_have_nearly_full_effective_rank():
    statistics = latent_statistics(normal(20_000, 5, 3), sigma=0.3)
    assert 14.98 < statistics.effective_rank <= 15
    assert statistics.dead_share == 0


def test_effective_rank_is_the_exponential_of_the_spectrums_entropy():
    shares = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    entries = torch.diag(shares.sqrt())
    latents = torch.cat([entries, -entries]).reshape(6, 1, 3)
    rank = latent_statistics(latents, sigma=0.3).effective_rank
    assert rank == pytest.approx(math.exp(1.5 * math.log(2)))


def test_effective_rank_ignores_where_and_how_wide_the_latents_are():
    latents = normal(40, 5, 3)
    moved = 7 * latents + normal(1, 5, 3, seed=1) * 100
    rank = latent_statistics(latents, sigma=0.3).effective_rank
    assert latent_statistics(moved, sigma=0.3).effective_rank == pytest.approx(rank)


def test_spread_is_split_into_tokens_and_images():
    across = normal(4000, 1, 1) * 0.5
    tokens = torch.tensor([[-2.0, 2.0]], dtype=torch.float64)[..., None]
    statistics = latent_statistics(across + tokens, sigma=0.3)
    assert abs(statistics.mean) < 4 * 0.5 / math.sqrt(4000)
    assert statistics.std == pytest.approx(math.sqrt(4.25), rel=0.02)
    assert statistics.std_across_images == pytest.approx(0.5, rel=0.05)


def test_entries_below_the_stated_share_of_the_noise_are_dead():
    signs = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    variances = torch.tensor([0.9, 1.1, 4.0, 100.0], dtype=torch.float64) * 0.01 * 0.3**2
    # The unbiased variance of +a and -a is 2 a^2.
    latents = (signs * (variances / 2).sqrt())[:, None]
    assert latent_statistics(latents, sigma=0.3).dead_share == 0.25
    assert latent_statistics(latents, sigma=0.3, dead_fraction=0.05).dead_share == 0.75


def test_statistics_of_one_image_are_refused():
    with pytest.raises(ValueError, match=r"Expected latents of at least 2 images; got 1. Collect"):
        latent_statistics(normal(1, 5, 3), sigma=0.3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_statistics_of_latents_that_are_not_finite_are_refused(value):
    latents = normal(4, 5, 3)
    latents[1, 2, 0] = latents[3] = value
    message = r"^Expected finite latents; got NaN or infinity in 2 of 4 images. Encode with weights"
    with pytest.raises(ValueError, match=message):
        latent_statistics(latents, sigma=0.3)


def gaussian_loss(z, mean, std):
    """TARFlow's loss of a flow that whitens with one mean and deviation per entry."""
    return (0.5 * ((z - mean) / std).square() + math.log(std)).mean().item()


def test_a_constant_encoder_has_no_rate():
    mean = normal(1, 5, 3).expand(40_000, -1, -1)
    z = LatentPosterior(mean, 0.3, mean).sample(generator=torch.Generator().manual_seed(2))
    rate = rate_bits(gaussian_loss(z, mean, 0.3), sigma=0.3, num_dims=15)
    standard_error = math.sqrt(0.5 / z.numel()) * 15 / math.log(2)
    assert abs(rate) < 4 * standard_error
    assert rate_bits(0.5 + math.log(0.3), sigma=0.3, num_dims=15) == 0


def test_rate_of_normal_latents_is_shannons_capacity():
    mean = normal(40_000, 5, 3) * 0.6
    z = LatentPosterior(mean, 0.3, mean).sample(generator=torch.Generator().manual_seed(2))
    rate = rate_bits(gaussian_loss(z, 0, math.hypot(0.6, 0.3)), sigma=0.3, num_dims=15)
    standard_error = math.sqrt(0.5 / z.numel()) * 15 / math.log(2)
    assert abs(rate - 15 * 0.5 * math.log2(1 + 4)) < 4 * standard_error


@pytest.mark.parametrize(
    ("sigma", "num_dims", "message"),
    [(0.0, 15, "sigma above 0 and finite; got 0.0"), (0.3, 0, "num_dims above 0; got 0")],
)
def test_rates_without_a_floor_or_latents_are_refused(sigma, num_dims, message):
    with pytest.raises(ValueError, match=f"Expected {message}"):
        rate_bits(-0.5, sigma=sigma, num_dims=num_dims)
