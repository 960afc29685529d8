"""What an iteration knows of one extreme singular value of each sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Bound = Literal["lower", "upper", "exact"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """One extreme singular value of each sample, with its certificate.

    Args:
        value: The estimate.
        residual: ``|J^T J v - value^2 v| / value^2`` at the last vector, or the same of the
            inverse. A singular value lies within this relative distance.
        iterations: Steps until the sample converged, or all of them.
        converged: Whether the residual came below the tolerance, and no inner solve was cut short.
        bound: On which side of the truth the value lies, up to rounding.
        num_products: Passes through the flow that it took, for all samples together.
        method: How it was found.
    """

    value: Float[Tensor, " b"]
    residual: Float[Tensor, " b"]
    iterations: Int64[Tensor, " b"]
    converged: Bool[Tensor, " b"]
    bound: Bound
    num_products: int
    method: str

    def certificate(self, row: int) -> dict[str, float | int | bool]:
        """Return what is known of the quality of one sample's value."""
        return {
            "residual": self.residual[row].item(),
            "iterations": int(self.iterations[row]),
            "converged": bool(self.converged[row]),
        }

    @classmethod
    def concatenate(cls, parts: Sequence["Estimate"]) -> "Estimate":
        """Join the estimates of batches that were made by one method."""
        return cls(
            value=torch.cat([part.value for part in parts]),
            residual=torch.cat([part.residual for part in parts]),
            iterations=torch.cat([part.iterations for part in parts]),
            converged=torch.cat([part.converged for part in parts]),
            bound=parts[0].bound,
            num_products=sum(part.num_products for part in parts),
            method=parts[0].method,
        )


class Tracker:
    """Holds the values of each sample still from the step at which it converges.

    So a sample's result does not depend on the batch that it is computed in.

    Args:
        like: Gives batch and device.
        tol: Residual at which a sample is done.
    """

    def __init__(self, like: Float[Tensor, "b d"], tol: float) -> None:
        self.value = like.new_zeros(len(like))
        self.residual = like.new_full((len(like),), torch.inf)
        self.iterations = torch.zeros(len(like), dtype=torch.int64, device=like.device)
        self.converged = torch.zeros(len(like), dtype=torch.bool, device=like.device)
        self._tol = tol

    def update(self, value: Float[Tensor, " b"], residual: Float[Tensor, " b"]) -> bool:
        """Take in a step of all samples and return whether all are done."""
        running = ~self.converged
        self.value = torch.where(running, value, self.value)
        self.residual = torch.where(running, residual, self.residual)
        self.iterations += running
        self.converged = self.converged | (residual <= self._tol)
        return bool(self.converged.all())

    def estimate(self, bound: Bound, num_products: int, method: str) -> Estimate:
        """Return what is known now."""
        return Estimate(
            value=self.value,
            residual=self.residual,
            iterations=self.iterations,
            converged=self.converged,
            bound=bound,
            num_products=num_products,
            method=method,
        )


def unit(v: Float[Tensor, "b d"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, " b"]]:
    """Return the rows scaled to norm 1, and their norms; a row of zeros stays one."""
    norm = torch.linalg.vector_norm(v, dim=1)
    return v / norm.clamp(min=torch.finfo(v.dtype).tiny)[:, None], norm


def relative(residual: Float[Tensor, " b"], value: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return the ratio, 0 where both are 0."""
    return residual / value.clamp(min=torch.finfo(value.dtype).tiny)
