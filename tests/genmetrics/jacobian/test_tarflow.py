"""A flow with fused attention and custom autograd functions, from another package."""

import pytest
import torch

from genmetrics.errors import UsageError
from genmetrics.jacobian.result import log_det_check
from genmetrics.jacobian.spectrum import jacobian_spectrum
from tarflow_prior import TarFlow, TarFlowConfig, triangular_blocks
from tarflow_prior.implicit import reparameterized_inverse


@pytest.fixture(scope="module")
def flow():
    config = TarFlowConfig.preset("tiny", num_tokens=5, token_dim=3, width=128, depths=(1, 1, 1))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = TarFlow(config).double()
    generator = torch.Generator().manual_seed(0)
    for block in flow.blocks:
        torch.nn.init.normal_(block.head.weight, std=0.03, generator=generator)
        torch.nn.init.normal_(block.head.bias, std=0.03, generator=generator)
        torch.nn.init.normal_(block.positions, generator=generator)
    return flow


@pytest.fixture(scope="module")
def z():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def exact(flow, z):
    return jacobian_spectrum(flow, z)


def test_log_singular_values_sum_to_the_log_determinant(flow, z, exact):
    check = log_det_check(exact, flow(z).log_det.detach())
    assert check.gap.max() < 1e-10
    assert check.consistent.all()
    assert (exact.log10_kappa > 0.5).all()


def test_blocks_give_both_ends(flow, z, exact):
    blocks = triangular_blocks(flow)
    result = jacobian_spectrum(flow, z, blocks=blocks, method="gkl", tol=1e-6)
    assert result.converged.all()
    assert result.smallest.method == "triangular+gkl"
    torch.testing.assert_close(result.sigma_max, exact.sigma_max, rtol=1e-8, atol=0)
    torch.testing.assert_close(result.sigma_min, exact.sigma_min, rtol=1e-8, atol=0)
    assert log_det_check(result, result.log_det).consistent.all()


def test_an_inverse_that_is_solved_for_serves_with_differences(flow, z, exact):
    def inverse(u):
        return reparameterized_inverse(flow.blocks, u, None)

    result = jacobian_spectrum(flow, z, inverse=inverse, method="gkl", jvp="differences", tol=1e-6)
    torch.testing.assert_close(result.sigma_min, exact.sigma_min, rtol=1e-6, atol=0)
    with pytest.raises(UsageError, match="jvp='differences'"):
        jacobian_spectrum(flow, z, inverse=inverse, method="gkl")


def test_an_inverse_without_gradients_is_named(flow, z):
    with pytest.raises(UsageError, match=r"inverse to be differentiable.*blocks"):
        jacobian_spectrum(flow, z, inverse=flow.inverse, method="gkl")


def test_float32_agrees_as_far_as_it_reaches(flow, z, exact):
    config = flow.config
    single = TarFlow(config)
    single.load_state_dict({k: v.float() for k, v in flow.state_dict().items()})
    blocks = triangular_blocks(single)
    result = jacobian_spectrum(single, z, blocks=blocks, method="gkl", dtype=torch.float32)
    torch.testing.assert_close(result.sigma_min.double(), exact.sigma_min, rtol=1e-3, atol=0)
    torch.testing.assert_close(result.sigma_max.double(), exact.sigma_max, rtol=1e-3, atol=0)
