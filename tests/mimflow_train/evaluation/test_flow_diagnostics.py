"""A flow from inside: its likelihood taken apart, and its noise held against N(0, 1)."""

import pytest
import torch
from scipy import stats

from mimflow_train.evaluation.flow_diagnostics import (
    base_noise,
    by_depth,
    correlation,
    inversion_error,
    likelihood,
    pass_through,
)
from tarflow_prior import TarFlow, TarFlowConfig, nll_per_dim

B, K, D = 7, 5, 3
LABEL = torch.tensor([0, 1, -1, 1, 0, 0, 1])


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def flow():
    config = TarFlowConfig(
        num_tokens=K, token_dim=D, width=16, head_dim=8, depths=(1, 2, 1), num_classes=2
    )
    flow = TarFlow(config).double()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for each in flow.parameters():
            each.add_(0.05 * torch.randn(each.shape, generator=draw, dtype=each.dtype))
    return flow


def test_likelihood_is_that_of_the_flow(flow):
    values = nll_per_dim(flow(normal(B, K, D), LABEL))
    found = likelihood(pass_through(flow, normal(B, K, D), LABEL))
    assert found.mean == pytest.approx(values.mean().item(), abs=1e-9)
    assert found.standard_error == pytest.approx(values.std().item() / B**0.5, abs=1e-9)
    assert found.n == B
    alone = likelihood(pass_through(flow, normal(1, K, D), LABEL[:1]))
    assert (alone.n, alone.standard_error) == (1, None)


def test_batches_do_not_change_what_passes(flow, monkeypatch):
    whole = pass_through(flow, normal(B, K, D), LABEL)
    monkeypatch.setattr("mimflow_train.evaluation.flow_diagnostics.CHUNK", 3)
    parts = pass_through(flow, normal(B, K, D), LABEL)
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-9)


def test_nll_by_depth_is_that_of_the_flow_cut_short(flow):
    z = normal(B, K, D)
    found = by_depth(pass_through(flow, z, LABEL))
    states = list(flow.iter_states(z, LABEL))
    log_det = torch.zeros(B, dtype=torch.float64)
    expected = [0.5 * z.square().mean().item()]
    for state in states:
        log_det = log_det + state.log_det
        expected.append(nll_per_dim(state._replace(log_det=log_det)).mean().item())
    assert found.nll == pytest.approx(expected, abs=1e-9)


def test_tokens_share_out_the_nll(flow):
    passage = pass_through(flow, normal(B, K, D), LABEL)
    by_token = by_depth(passage).nll_by_token
    assert len(by_token) == K
    assert sum(by_token) / K == pytest.approx(likelihood(passage).mean, abs=1e-9)


def test_distance_from_normal_is_that_of_scipy():
    u = 1.3 * normal(B, K, D) + 0.2
    assert base_noise(u).ks == pytest.approx(stats.kstest(u.flatten(), "norm").statistic, abs=1e-9)


def test_moments_are_by_token_and_by_dimension():
    u = normal(B, K, D)
    u[:, 1] += 10
    u[..., 2] *= 7
    found = base_noise(u)
    assert found.mean_by_token == pytest.approx(u.mean((0, 2)).tolist())
    assert found.std_by_dim == pytest.approx(u.std((0, 1), correction=0).tolist())
    assert (len(found.std_by_token), len(found.mean_by_dim)) == (K, D)


def test_histogram_is_a_density():
    u = normal(B, K, D)
    u[0, 0, 0] = 99
    found = base_noise(u)
    width = found.edges[1] - found.edges[0]
    assert sum(found.density) * width == pytest.approx(1 - 1 / u.numel())


def test_correlation_of_copies_is_one_and_of_constants_zero():
    one = normal(B, K, 1)
    assert correlation(torch.cat([one, -one], -1)) == pytest.approx(1)
    assert correlation(torch.cat([one, torch.ones_like(one)], -1)) == 0
    assert correlation(one) == 0


def test_inversion_error_is_the_largest_of_all_entries(flow, monkeypatch):
    z = normal(B, K, D)
    assert inversion_error(flow, z) < 1e-9
    inverse = flow.inverse

    def wrong(u):
        back = inverse(u)
        back[-1, 3, 1] -= 0.5
        return back

    monkeypatch.setattr(flow, "inverse", wrong)
    assert inversion_error(flow, z) == pytest.approx(0.5, abs=1e-9)
