"""All singular values, from the explicit Jacobian: the cheapest way in few dimensions."""

import torch
from jaxtyping import Float
from torch import Tensor

from genmetrics.errors import UsageError
from genmetrics.jacobian.operators import Jacobian

MAX_DIM = 8192  # 512 MiB in float64
_ROWS_PER_PASS = 64


def explicit_jacobian(jacobian: Jacobian) -> Float[Tensor, "b d d"]:
    """Return the matrices, row by row in reverse mode, many rows a pass.

    Args:
        jacobian: At each sample.

    Raises:
        UsageError: If there are more than 8192 dimensions.

    Example:
        >>> x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
        >>> explicit_jacobian(Jacobian(lambda x: x * x.flip(1), x)).tolist()
        [[[2.0, 1.0], [2.0, 1.0]]]
    """
    d = jacobian.value[0].numel()
    if d > MAX_DIM:
        raise UsageError(
            f"Expected at most {MAX_DIM} dimensions for the exact method; got {d}. Take method gkl."
        )
    units = torch.eye(d, dtype=jacobian.value.dtype, device=jacobian.value.device)
    return torch.cat([jacobian.rows(part) for part in units.split(_ROWS_PER_PASS)], dim=1)


def singular_values(jacobian: Jacobian) -> Float[Tensor, "b d"]:
    """Return the singular values of each matrix, largest first.

    Their error is about the machine epsilon times the largest.

    Args:
        jacobian: At each sample.

    Raises:
        UsageError: If there are more than 8192 dimensions.
    """
    values: Tensor = torch.linalg.svdvals(explicit_jacobian(jacobian))
    return values
