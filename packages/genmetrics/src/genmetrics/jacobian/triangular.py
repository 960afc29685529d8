"""The inverse of the Jacobian of an autoregressive flow, from parallel passes alone.

In its own token order the Jacobian of a block is ``Diag - N``, with ``Diag = exp(-log_scale)`` and
N strictly block triangular, so ``w <- w + Diag^-1 (r - J w)`` is exact after as many sweeps as
there are tokens, and mostly after far fewer. There is no shift, and no squared condition number.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from genmetrics.errors import BadInput
from genmetrics.jacobian.operators import Jacobian, JvpMode


@runtime_checkable
class FlowBlock(Protocol):
    """One block of a flow, ``z_t = (x_t - shift_t) exp(-log_scale_t)`` in its own token order.

    The shift and log-scale of a token are functions of the tokens before it. The flow is
    ``x <- unpermute(block(permute(x)))``, block by block.
    """

    def __call__(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        """Map tokens in the block's order, from data to noise."""

    def log_scale(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        """Return the log-scale of every entry, from the same tokens."""

    def permute(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        """Reorder tokens from the flow's order to the block's."""

    def unpermute(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        """Undo :meth:`permute`."""


class TriangularInverse:
    """``J^-1`` of a chain of autoregressive blocks at each sample, as a linear map.

    Args:
        blocks: The blocks, from data to noise.
        x: Where, in the flow's order.
        value: ``f(x)``, which the chain must reproduce.
        jvp: How the blocks' Jacobians are multiplied, as for :class:`Jacobian`.

    Raises:
        UsageError: If a block has no gradient or another dtype.
        BadInput: If the chain is not ``f`` or a block is not autoregressive with these scales.
    """

    def __init__(
        self,
        blocks: Sequence[FlowBlock],
        x: Float[Tensor, "b t c"],
        value: Float[Tensor, "b t c"],
        *,
        jvp: JvpMode = "forward",
    ) -> None:
        self._shape = x.shape
        self._solvers: list[_BlockSolver] = []
        for index, block in enumerate(blocks):
            solver = _BlockSolver(block, x, jvp=jvp, name=f"blocks[{index}]")
            self._solvers.append(solver)
            x = solver.output
        tol = torch.finfo(x.dtype).eps ** 0.5
        if not torch.allclose(x, value, rtol=tol, atol=tol):
            raise BadInput(
                f"Expected blocks that make up f; got {(x - value).abs().max().item():.2g} as the "
                "largest difference. Check their order and their permutations."
            )

    @property
    def num_products(self) -> int:
        """Products with the Jacobian of the flow that were done, block sweeps put together."""
        sweeps = sum(solver.jacobian.num_products for solver in self._solvers)
        return math.ceil(sweeps / len(self._solvers))

    @property
    def residual(self) -> Float[Tensor, " b"]:
        """Largest relative residual of any solve so far; rounding, unless kappa is extreme."""
        return torch.stack([solver.residual for solver in self._solvers]).amax(dim=0)

    def push(self, v: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return ``J^-1 v``."""
        w = v.reshape(self._shape)
        for solver in reversed(self._solvers):
            w = solver.unpermute(solver.solve(solver.permute(w), solver.jacobian.push))
        return w.flatten(1)

    def pull(self, u: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return ``J^-T u``."""
        w = u.reshape(self._shape)
        for solver in self._solvers:
            w = solver.unpermute(solver.solve(solver.permute(w), solver.jacobian.pull))
        return w.flatten(1)


class _BlockSolver:
    def __init__(self, block: FlowBlock, x: Tensor, *, jvp: JvpMode, name: str) -> None:
        self.permute, self.unpermute = block.permute, block.unpermute
        ordered = block.permute(x)
        self.jacobian = Jacobian(block, ordered, jvp=jvp, name=name)
        with torch.no_grad():
            self.scale = block.log_scale(ordered).exp()
        self.output = block.unpermute(self.jacobian.value)
        self.residual = x.new_zeros(len(x))
        self._tol = torch.finfo(x.dtype).eps ** 0.75
        self._check(name)

    def solve(self, right: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``w`` with ``product(w) = right``, by at most one sweep a token and one more."""
        w = self.scale * right
        norm = right.flatten(1).norm(dim=1).clamp(min=torch.finfo(right.dtype).tiny)
        for _ in range(right.shape[1]):
            gap = right - product(w.flatten(1)).reshape(right.shape)
            residual = gap.flatten(1).norm(dim=1) / norm
            if (residual <= self._tol).all():
                break
            w = w + self.scale * gap
        self.residual = torch.maximum(self.residual, residual)
        return w

    def _check(self, name: str) -> None:
        """Move one token in the middle: none before it may move, and it by its own scale."""
        token = self.scale.shape[1] // 2
        v = torch.zeros_like(self.scale)
        v[:, token] = 1
        moved = self.jacobian.push(v.flatten(1)).reshape(v.shape)[:, : token + 1]
        expected = (v / self.scale)[:, : token + 1]
        tol = torch.finfo(v.dtype).eps ** 0.25  # loose enough for differences
        if not torch.allclose(moved, expected, rtol=tol, atol=tol):
            raise BadInput(
                f"Expected {name} to scale each token by exp(-log_scale) given those before it; "
                "got another derivative. Check log_scale and the order of permute."
            )
