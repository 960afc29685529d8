"""First and second moments of rows, gathered piece by piece: centred floats, or whole numbers."""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from genmetrics.errors import BadInput

_GRID_BITS = 14
_LARGEST = 2**20 - 1  # of a feature, in grid steps: 4096 squares fit the 53 bits of a float64
_MOST_ROWS = 2**23  # squares of that size then fit an int64


class CentredSums:
    """Mean and centred scatter in float64; merging rounds in the last digits.

    Args:
        dim: Numbers per row.
    """

    def __init__(self, dim: int) -> None:
        self.n = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64)

    def add(self, rows: Float64[Tensor, "n d"]) -> None:
        """Add rows, at least one."""
        part = CentredSums(rows.shape[1])
        part.n = len(rows)
        part.mean = rows.mean(dim=0)
        centred = rows - part.mean
        part.scatter = centred.T @ centred
        self.merge(part)

    def merge(self, other: "CentredSums") -> None:
        """Add the rows of another; the mean moves by the share of the gap that is theirs."""
        total = self.n + other.n
        if not total:
            return
        step = other.mean - self.mean
        between = torch.outer(step, step) * (self.n * other.n / total)
        self.scatter = self.scatter + other.scatter + between
        self.mean = self.mean + step * (other.n / total)
        self.n = total

    def finalize(self) -> tuple[int, Float64[Tensor, " d"], Float64[Tensor, "d d"]]:
        """Return ``n``, the mean and the unbiased covariance."""
        return self.n, self.mean, self.scatter / max(self.n - 1, 1)


class GridSums:
    """Sums of rows rounded to multiples of 2^-14, kept as int64, so that no order matters.

    A block of 4096 rows is multiplied in float64, where every partial sum of its products is a
    whole number below 2^53 and hence exact; blocks add up in int64.

    Args:
        dim: Numbers per row.
    """

    def __init__(self, dim: int) -> None:
        self.n = 0
        self.total = torch.zeros(dim, dtype=torch.int64)
        self.products = torch.zeros(dim, dim, dtype=torch.int64)

    def add(self, rows: Float64[Tensor, "n d"]) -> None:
        """Add at most 4096 rows.

        Raises:
            BadInput: If a feature is 64 or more in magnitude, or there are too many rows.
        """
        steps = (rows * 2**_GRID_BITS).round()
        largest = steps.abs().max().item()
        if largest > _LARGEST:
            raise BadInput(
                f"Expected features below {(_LARGEST + 1) >> _GRID_BITS} in magnitude for exact "
                f"sums; got {largest / 2**_GRID_BITS:g}. Scale them down, or sum without exact."
            )
        self._count(len(rows))
        self.total += steps.sum(dim=0).long()
        self.products += (steps.T @ steps).long()

    def merge(self, other: "GridSums") -> None:
        """Add the rows of another.

        Raises:
            BadInput: If there are too many rows.
        """
        self._count(other.n)
        self.total = self.total + other.total
        self.products = self.products + other.products

    def _count(self, rows: int) -> None:
        if self.n + rows > _MOST_ROWS:
            raise BadInput(
                f"Expected at most {_MOST_ROWS} rows for exact sums; got {self.n + rows}. "
                "Sum without exact."
            )
        self.n += rows

    def finalize(self) -> tuple[int, Float64[Tensor, " d"], Float64[Tensor, "d d"]]:
        """Return ``n``, the mean and the unbiased covariance."""
        n = max(self.n, 1)
        # Centred on a whole number near the mean, which cancels the large part in exact arithmetic.
        # Terms may wrap around in int64, but the centred sum fits, so it comes out right.
        centre: Int64[Tensor, " d"] = torch.div(self.total, n, rounding_mode="floor")
        cross = torch.outer(centre, self.total)
        centred = self.products - cross - cross.T + n * torch.outer(centre, centre)
        rest = (self.total - n * centre).double()
        scatter = centred.double() - torch.outer(rest, rest) / n
        mean = (centre.double() + rest / n) / 2**_GRID_BITS
        return self.n, mean, scatter / max(self.n - 1, 1) / 4**_GRID_BITS
