import warnings
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tarflow_prior.strategies import configured, few, shapes

from tarflow_prior import (
    Auto,
    GaussSeidel,
    Guidance,
    Jacobi,
    NonFiniteError,
    Sequential,
    TarFlow,
    TarFlowConfig,
)
from tarflow_prior.solvers import cut

GUIDANCES = [
    None,
    Guidance(2.0),
    Guidance(1.5, rule="starflow", interval=(0.5, 0.8), blocks="all"),
    Guidance(1.0, attention_temperature=1.7, interval=(0.3, 1.0), blocks="all"),
]


def assert_near(actual, expected, atol=1e-9):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@given(st.integers(2, 40), st.integers(1, 50))
@few
def test_segments_tile_the_ranks_and_differ_by_one_at_most(num_tokens, segments):
    parts = cut(num_tokens, segments)
    assert [rank for start, stop in parts for rank in range(start, stop)] == [*range(1, num_tokens)]
    lengths = {stop - start for start, stop in parts}
    assert max(lengths) - min(lengths) <= 1
    assert len(parts) == min(segments, num_tokens - 1)


@given(
    shapes(),
    st.sampled_from(GUIDANCES),
    st.sampled_from([Jacobi(0.0), GaussSeidel(1, 0.0), GaussSeidel(2, 0.0), GaussSeidel(9, 0.0)]),
)
@few
def test_solvers_agree_with_sequential(random_flow, random_batch, shape, guidance, solver):
    config = configured(shape)
    flow = random_flow(config)
    u, label = random_batch(config, batch=3)
    exact = flow.inverse(u, label, guidance=guidance)
    assert_near(flow.inverse(u, label, guidance=guidance, solver=solver), exact)


@given(shapes(), st.sampled_from(GUIDANCES))
@few
def test_auto_meets_its_tolerance(random_flow, random_batch, shape, guidance):
    config = configured(shape)
    flow = random_flow(config)
    u, label = random_batch(config, batch=3)
    decoded = flow.decode(u, label, guidance=guidance, solver=Auto(1e-12))
    assert decoded.residual.max() < 1e-9
    decoder = flow.decoder(3, guidance=guidance, solver=Auto(1e-12))
    for _ in range(2):  # the second call remembers which blocks were slow
        assert_near(decoder(u, label).z, decoded.z)


@pytest.fixture
def long_flow(random_flow):
    config = TarFlowConfig(
        num_tokens=12, token_dim=2, width=16, head_dim=8, depths=(2,), num_classes=3
    )
    return random_flow(config, head_std=0.05)


@pytest.fixture
def noise():
    return torch.randn(3, 12, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_every_sweep_makes_one_more_token_exact(long_flow, noise):
    exact = long_flow.inverse(noise)
    for sweeps in range(1, 12):
        with pytest.warns(UserWarning, match="max_iterations") if sweeps < 11 else nullcontext():
            swept = long_flow.inverse(noise, solver=Jacobi(0.0, sweeps))
        assert_near(swept[:, : sweeps + 1], exact[:, : sweeps + 1])
        if sweeps == 2:
            assert (swept - exact).abs().max() > 1e-6, "the rest must still be on its way"


@pytest.mark.parametrize("guidance", [None, Guidance(2.0)], ids=["unguided", "guided"])
def test_residual_is_the_distance_in_noise(long_flow, noise, guidance):
    label = torch.tensor([0, 1, 2])
    loose = long_flow.decode(noise, label, guidance=guidance, solver=Jacobi(1e-2))
    assert (loose.residual <= 1e-2).all()
    assert loose.residual.max() > 1e-9, "the tolerance must bite"
    assert loose.sweeps[0] < 11
    if guidance is None:
        encoded = long_flow(loose.z, label).u
        assert_near(loose.residual, (encoded - noise).abs().amax((1, 2)).detach(), atol=1e-12)
    exact = long_flow.decode(noise, label, guidance=guidance)
    assert exact.residual.max() < 1e-12
    assert exact.sweeps == (11,)


def test_a_sample_stops_by_itself(long_flow, noise):
    # The second sample is so much larger that it needs more sweeps.
    pair = torch.stack([0.1 * noise[0], 3 * noise[1]])
    together = long_flow.inverse(pair, solver=Jacobi(1e-3))
    alone = long_flow.inverse(pair[:1], solver=Jacobi(1e-3))
    assert_near(together[:1], alone, atol=1e-13)


def test_guesses_that_overflow_do_not_poison_the_answer(random_flow):
    config = TarFlowConfig(
        num_tokens=10, token_dim=2, width=16, head_dim=8, depths=(1,), log_scale_bound=None
    )
    flow = random_flow(config, head_std=0.3).float()
    # Noise of a sound sample: its inverse is finite, the guesses on the way are not.
    z = 0.3 * torch.randn(2, 10, 2, generator=torch.Generator().manual_seed(0))
    u = flow(z).u.detach()
    guess = u
    with torch.no_grad():
        for _ in range(9):
            encoded, log_scale = flow.blocks[0].standardize(guess)
            guess = guess + (u - encoded) * log_scale.exp()
    assert not guess.isfinite().all(), "plain sweeps must break on this flow"
    exact = flow.decode(u)
    swept = flow.decode(u, solver=Jacobi(0.0))
    assert swept.z.isfinite().all()
    assert_near(swept.z, exact.z, atol=1e-3)


@pytest.mark.parametrize("solver", [Jacobi(0.0), Jacobi(), GaussSeidel(2, 0.0), Auto()])
def test_guesses_whose_squares_overflow_do_not_poison_the_answer(solver, monkeypatch):
    monkeypatch.setattr("tarflow_prior.inversion.BlockDecoder._seconds", lambda *_: 1.0)
    config = TarFlowConfig(
        num_tokens=24, token_dim=2, width=32, depths=(1,), head_dim=16, log_scale_bound=None
    )
    torch.manual_seed(33)
    flow = TarFlow(config)
    torch.nn.init.normal_(flow.blocks[0].head.weight, std=0.15)
    u = torch.randn(8, 24, 2)[[0, 2, 4, 5, 6, 7]]  # the others have no finite sample
    exact = flow.decode(u)
    swept = flow.decode(u, solver=solver)
    assert_near(swept.z, exact.z, atol=1e-3)


@pytest.mark.parametrize("solver", [Jacobi(1e-4, 2), GaussSeidel(2, 1e-4, 1), Auto(1e-4)])
def test_no_solver_turns_nan_into_a_sample(random_flow, noise, solver, monkeypatch):
    config = TarFlowConfig(num_tokens=12, token_dim=2, width=16, head_dim=8, depths=(2,))
    flow = random_flow(config, head_std=0.05)
    # A sweep that seems to cost what a step costs, so that Auto has a budget to sweep with.
    monkeypatch.setattr("tarflow_prior.inversion.BlockDecoder._seconds", lambda *_: 1.0)
    with torch.no_grad():
        flow.blocks[0].layers[0].mlp_out.weight[0, 0] = float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(NonFiniteError, match="3 of 3 samples"):
            flow.inverse(noise, solver=solver)


def test_last_conditioning_guides_only_what_sees_the_class(config, random_flow, random_batch):
    flow = random_flow(replace(config, conditioning="last"))
    u, label = random_batch(flow.config)
    last = flow.inverse(u, label, guidance=Guidance(2.0, blocks="last"))
    assert torch.equal(flow.inverse(u, label, guidance=Guidance(2.0, blocks="all")), last)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Jacobi(-1.0), "Expected tol of at least 0 and finite; got -1.0"),
        (lambda: Auto(float("nan")), "Expected tol of at least 0 and finite; got nan"),
        (lambda: Jacobi(1e-3, 0), "Expected max_iterations of at least 1; got 0"),
        (lambda: GaussSeidel(0), "Expected segments of at least 1; got 0"),
        (lambda: Sequential(polish=-1), "Expected polish of at least 0; got -1"),
    ],
)
def test_bad_solver_is_named_with_its_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()
