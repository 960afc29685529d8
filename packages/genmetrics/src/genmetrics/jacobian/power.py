"""The largest singular value by power iteration on ``J^T J``, as in the paper (Eq. 9)."""

from jaxtyping import Float
from torch import Tensor

from genmetrics.jacobian.estimate import Estimate, Tracker, relative, unit
from genmetrics.jacobian.operators import LinearMap


def largest_by_power(
    jacobian: LinearMap, start: Float[Tensor, "b d"], *, tol: float, max_products: int
) -> Estimate:
    """Repeat ``v <- J^T J v / |J^T J v|`` and return ``|J v|``, never above the truth.

    Args:
        jacobian: The matrices.
        start: A unit vector for each.
        tol: Relative residual of the eigenvalue at which a sample is done.
        max_products: Products with J and its transpose to spend.
    """
    tracker, v, before = Tracker(start, tol), start, jacobian.num_products
    while jacobian.num_products - before + 2 <= max_products:
        moved = jacobian.push(v)
        eigenvalue = moved.square().sum(dim=1)
        w = jacobian.pull(moved)
        gap = (w - eigenvalue[:, None] * v).norm(dim=1)
        if tracker.update(eigenvalue.sqrt(), relative(gap, eigenvalue)):
            break
        v, _ = unit(w)
    return tracker.estimate("lower", jacobian.num_products - before, "power")
