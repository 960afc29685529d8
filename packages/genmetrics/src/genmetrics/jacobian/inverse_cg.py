"""The smallest singular value by inverse iteration with conjugate gradients, as in the paper."""

import torch
from jaxtyping import Float
from torch import Tensor

from genmetrics.jacobian.estimate import Estimate, Tracker, relative, unit
from genmetrics.jacobian.operators import LinearMap

_CG_TOL = 1e-3
_SOLVES = 10  # at least that many fit into the budget


def smallest_by_cg(
    jacobian: LinearMap,
    start: Float[Tensor, "b d"],
    *,
    delta: float,
    tol: float,
    max_products: int,
) -> Estimate:
    """Solve ``(J^T J + delta) y = v``, set ``v = y / |y|``, repeat, and return ``|J v|`` (Eq. 10).

    The value is never below the truth. It is far above it where the condition number is beyond
    what CG can reach (about ``kappa`` products a solve); a sample whose solve was cut short does
    not count as converged, whatever its residual.

    Args:
        jacobian: The matrices.
        start: A unit vector for each.
        delta: Shift of the spectrum of ``J^T J``.
        tol: Relative residual of the eigenvalue of ``J^T J`` at which a sample is done.
        max_products: Products with J and its transpose to spend, a tenth of them on a solve.
    """
    tracker, v, before = Tracker(start, tol), start, jacobian.num_products
    capped = torch.zeros_like(tracker.converged)
    per_solve = max_products // _SOLVES
    spent = 0
    while True:
        moved = jacobian.push(v)
        eigenvalue = moved.square().sum(dim=1)
        gap = (jacobian.pull(moved) - eigenvalue[:, None] * v).norm(dim=1)
        residual = torch.where(capped, torch.inf, relative(gap, eigenvalue))
        done = tracker.update(eigenvalue.sqrt(), residual)
        spent = jacobian.num_products - before
        if done or spent + per_solve > max_products:
            break
        # The eigenvector that v nearly is would have this solution.
        guess = v / (eigenvalue + delta)[:, None]
        y, cut_short = _solve(jacobian, v, guess, delta=delta, max_products=per_solve - 2)
        capped = capped | (cut_short & ~tracker.converged)
        v, _ = unit(y)
    tracker.residual = torch.where(capped, relative(gap, eigenvalue), tracker.residual)
    return tracker.estimate("upper", spent, "cg")


def _solve(
    jacobian: LinearMap, right: Tensor, guess: Tensor, *, delta: float, max_products: int
) -> tuple[Tensor, Tensor]:
    """Return an approximate ``(J^T J + delta)^-1 right``, and which rows did not reach the tol."""

    def apply(v: Tensor) -> Tensor:
        return jacobian.pull(jacobian.push(v)) + delta * v

    y = guess
    residual = right - apply(y)
    direction, energy = residual, residual.square().sum(dim=1)
    target = _CG_TOL**2 * right.square().sum(dim=1)
    for _ in range(max_products // 2 - 1):
        running = energy > target
        if not running.any():
            break
        moved = apply(direction)
        step = torch.where(running, relative(energy, (direction * moved).sum(dim=1)), 0)[:, None]
        y = y + step * direction
        residual = residual - step * moved
        previous, energy = energy, residual.square().sum(dim=1)
        direction = residual + relative(energy, previous)[:, None] * direction
    return y, energy > target
