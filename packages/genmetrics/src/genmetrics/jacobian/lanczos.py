"""The largest singular value by Golub-Kahan-Lanczos bidiagonalisation."""

import torch
from jaxtyping import Float
from torch import Tensor

from genmetrics.jacobian.estimate import Estimate, Tracker, relative, unit
from genmetrics.jacobian.operators import LinearMap


class Bidiagonalisation:
    """``J V = U B`` and ``J^T U = V B^T + rest e_k^T`` with orthonormal U, V, one step at a time.

    B is upper bidiagonal. Both bases are reorthogonalised in full, since otherwise converged
    singular values come back as copies.

    Args:
        jacobian: The matrices.
        start: First column of V, a unit vector for each sample.
    """

    def __init__(self, jacobian: LinearMap, start: Float[Tensor, "b d"]) -> None:
        self._jacobian = jacobian
        self._left, self._right = start[:, None][:, :0], start[:, None]
        self._alphas: list[Tensor] = []
        self._betas: list[Tensor] = []

    def step(self) -> None:
        """Add a column to U and to V: one product with J, one with its transpose."""
        v = self._right[:, -1]
        u, alpha = unit(_orthogonal(self._jacobian.push(v), self._left))
        self._left = torch.cat([self._left, u[:, None]], dim=1)
        v, beta = unit(_orthogonal(self._jacobian.pull(u), self._right))
        self._right = torch.cat([self._right, v[:, None]], dim=1)
        self._alphas.append(alpha)
        self._betas.append(beta)

    @property
    def matrix(self) -> Float[Tensor, "b k k"]:
        """B after k steps."""
        matrix = torch.diag_embed(torch.stack(self._alphas, dim=1))
        if len(self._betas) > 1:
            matrix = matrix + torch.diag_embed(torch.stack(self._betas[:-1], dim=1), offset=1)
        return matrix

    @property
    def rest(self) -> Float[Tensor, " b"]:
        """How far V is from an invariant space."""
        return self._betas[-1]


def _orthogonal(w: Tensor, basis: Float[Tensor, "b k d"]) -> Tensor:
    """Remove the part in the span of the basis; twice is enough."""
    for _ in range(2):
        w = w - torch.einsum("bkd,bk->bd", basis, torch.einsum("bkd,bd->bk", basis, w))
    return w


def largest_by_lanczos(
    jacobian: LinearMap, start: Float[Tensor, "b d"], *, tol: float, max_products: int
) -> Estimate:
    """Return the largest singular value of B, never above that of J.

    It converges in fewer products than power iteration and, after d steps, in any case.

    Args:
        jacobian: The matrices.
        start: A unit vector for each.
        tol: Relative residual at which a sample is done, as for power iteration.
        max_products: Products with J and its transpose to spend.
    """
    tracker, before = Tracker(start, tol), jacobian.num_products
    space = Bidiagonalisation(jacobian, start)
    for _ in range(start.shape[1]):
        spent = jacobian.num_products - before
        if spent + 2 > max_products:
            break
        space.step()
        left, values, _ = torch.linalg.svd(space.matrix)
        largest = values[:, 0]
        if tracker.update(largest, relative(space.rest * left[:, -1, 0].abs(), largest)):
            break
    return tracker.estimate("lower", jacobian.num_products - before, "gkl")
