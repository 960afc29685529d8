import math

import torch

from mim_encoder import LatentPosterior


def posterior(sigma, *, shape=(4, 50, 100)):
    generator = torch.Generator().manual_seed(1)
    mean = torch.randn(shape, generator=generator, dtype=torch.float64)
    return LatentPosterior(mean, sigma, mean)


def test_samples_scatter_around_the_mean_with_variance_sigma_squared():
    given = posterior(0.3)
    error = given.sample(generator=torch.Generator().manual_seed(0)) - given.mean
    count = error.numel()
    assert error.mean().abs() < 4 * 0.3 / math.sqrt(count)
    assert (error.square().mean() / 0.09 - 1).abs() < 4 * math.sqrt(2 / count)


def test_sigma_zero_samples_the_mean():
    given = posterior(0.0)
    assert torch.equal(given.sample(), given.mean)


def test_sample_perturbs_with_the_generators_normal_numbers():
    given = posterior(0.7, shape=(2, 5, 3))
    noise = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    sampled = given.sample(generator=torch.Generator().manual_seed(2))
    assert torch.equal(sampled, given.perturb(noise))
    assert torch.allclose(sampled, given.mean + 0.7 * noise, rtol=0, atol=1e-15)


def test_samples_keep_dtype_and_pass_gradients_to_the_mean():
    mean = torch.zeros(1, 2, 3, dtype=torch.float64, requires_grad=True)
    z = LatentPosterior(mean, 0.3, mean).sample(generator=torch.Generator())
    z.sum().backward()
    assert z.dtype == torch.float64
    assert torch.equal(mean.grad, torch.ones_like(mean))
