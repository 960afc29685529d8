import pytest
import torch

from genmetrics.errors import BadInput, UsageError
from genmetrics.jacobian.exact import explicit_jacobian
from genmetrics.jacobian.operators import Jacobian, deterministic
from genmetrics.jacobian.spectrum import jacobian_spectrum
from genmetrics.jacobian.triangular import TriangularInverse


@pytest.mark.parametrize("strength", [0.2, 1.0, 3.0])
def test_solves_are_those_of_the_explicit_jacobian(make_toy_flow, points, strength):
    flow, x = make_toy_flow(5, 3, strength=strength), points(2, 5, 3)
    v = points(2, 15, seed=1)
    with deterministic(x.device):
        jacobian = Jacobian(flow, x)
        matrix = explicit_jacobian(jacobian)
        solver = TriangularInverse(flow.blocks, x, jacobian.value)
        for found, expected in (
            (solver.push(v), torch.linalg.solve(matrix, v[..., None])),
            (solver.pull(v), torch.linalg.solve(matrix.mT, v[..., None])),
        ):
            # The dense solution is no better than this.
            tol = 1e-14 * torch.linalg.cond(matrix).max().item() * expected.abs().max().item()
            torch.testing.assert_close(found, expected[..., 0], rtol=0, atol=tol)
    assert (solver.residual < 1e-9).all()
    # Exact after t sweeps of each block at the latest; one product of each block was the check.
    assert solver.num_products <= 1 + 2 * 5


def test_weak_dependence_needs_fewer_sweeps(make_toy_flow, points):
    x, v = points(2, 11, 2), points(2, 22, seed=1)
    counts = []
    for strength in (1e-4, 1.0):
        flow = make_toy_flow(11, 2, strength=strength)
        with deterministic(x.device):
            solver = TriangularInverse(flow.blocks, x, flow(x)[0])
            solver.push(v)
        counts.append(solver.num_products)
    assert counts[0] < counts[1] / 2


def test_smallest_singular_value_is_right_at_large_condition_numbers(make_toy_flow, points):
    flow, x = make_toy_flow(7, 3, num_blocks=5), points(3, 7, 3)
    exact = jacobian_spectrum(flow, x, method="exact")
    assert exact.log10_kappa.min() > 4
    result = jacobian_spectrum(flow, x, blocks=flow.blocks, method="gkl")
    assert result.converged.all()
    torch.testing.assert_close(result.sigma_min, exact.sigma_min, rtol=1e-4, atol=0)
    torch.testing.assert_close(result.sigma_max, exact.sigma_max, rtol=1e-4, atol=0)
    cg = jacobian_spectrum(flow, x, method="gkl", smin="cg", max_products=200)
    assert not cg.converged.any()
    assert (cg.sigma_min > 2 * exact.sigma_min).all()


def test_finite_differences_serve_as_well(make_toy_flow, points):
    flow, x = make_toy_flow(5, 3, strength=0.5), points(2, 5, 3)
    exact = jacobian_spectrum(flow, x, method="exact")
    result = jacobian_spectrum(flow, x, blocks=flow.blocks, method="gkl", jvp="differences")
    torch.testing.assert_close(result.sigma_min, exact.sigma_min, rtol=1e-5, atol=0)


def test_blocks_in_another_order_are_refused(toy_flow, points):
    with pytest.raises(BadInput, match="make up f"):
        jacobian_spectrum(toy_flow, points(2, 5, 3), blocks=toy_flow.blocks[::-1], method="gkl")


def test_a_block_with_other_scales_is_refused(toy_flow, points, monkeypatch):
    monkeypatch.setattr(toy_flow.blocks[1], "log_scale", torch.zeros_like)
    block = toy_flow.blocks[1]
    monkeypatch.setattr(type(block), "__call__", lambda self, x: 3 * x)
    with pytest.raises(BadInput, match=r"blocks\[0\] to scale each token"):
        jacobian_spectrum(toy_flow, points(2, 5, 3), blocks=toy_flow.blocks, method="gkl")


def test_a_block_that_sees_the_future_is_refused(toy_flow, points):
    class Backwards:
        def __init__(self, block):
            self.block = block

        def __call__(self, x):
            return self.block(x.flip(1)).flip(1)

        def log_scale(self, x):
            return self.block.log_scale(x.flip(1)).flip(1)

        def permute(self, x):
            return x

        unpermute = permute

    blocks = [Backwards(toy_flow.blocks[0])]
    with pytest.raises(BadInput, match="scale each token"):
        jacobian_spectrum(blocks[0], points(2, 5, 3), blocks=blocks, method="gkl")


def test_samples_without_tokens_are_refused(toy_flow, points):
    with pytest.raises(UsageError, match=r"samples of tokens.*\(2, 15\)"):
        jacobian_spectrum(
            lambda x: toy_flow(x.reshape(-1, 5, 3))[0].flatten(1),
            points(2, 15),
            blocks=toy_flow.blocks,
            method="gkl",
        )
