"""Mean and covariance of a set of features, in float64 and streamed."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from genmetrics.errors import BadInput, NumericalFailure

_ROWS_PER_UPDATE = 4096


def require_finite(features: Float[Tensor, "n d"], name: str) -> None:
    """Raise NumericalFailure, naming the first rows, unless every feature is a finite number."""
    bad = (~torch.isfinite(features)).any(dim=1).nonzero().flatten()
    if len(bad):
        rows = ", ".join(str(row) for row in bad[:5].tolist())
        more = ", ..." if len(bad) > 5 else ""
        raise NumericalFailure(
            f"Expected finite {name}; got NaN or infinity in {len(bad)} of {len(features)} rows "
            f"({rows}{more}). Check these images and the network's weights."
        )


@dataclass(frozen=True, slots=True)
class GaussianStats:
    """The Gaussian that a Frechet distance sees.

    Args:
        n: Samples behind the numbers, at least 2.
        mean: Mean of the features.
        cov: Unbiased covariance, divided by ``n - 1``.

    Raises:
        BadInput: If ``n`` is below 2 or a number is not finite.
    """

    n: int
    mean: Float64[Tensor, " d"]
    cov: Float64[Tensor, "d d"]

    def __post_init__(self) -> None:
        if self.n < 2:
            raise BadInput(
                f"Expected at least 2 samples for a covariance; got {self.n}. Add images."
            )
        if not (torch.isfinite(self.mean).all() and torch.isfinite(self.cov).all()):
            raise BadInput(
                "Expected finite mean and covariance; got NaN or infinity. Rebuild the statistics."
            )

    @property
    def dim(self) -> int:
        """Numbers per feature."""
        return len(self.mean)

    @property
    def rank_bound(self) -> int:
        """Largest rank that a covariance of ``n`` samples can have."""
        return min(self.dim, self.n - 1)


class StatsAccumulator:
    """Gather mean and covariance batch by batch, in float64, keeping no features.

    Batches are merged by their centred sums (Chan, Golub and LeVeque, 1983), so a mean far from
    zero costs no digits. The order of batches changes the result by rounding only.

    Args:
        dim: Numbers per feature, at least 1.

    Example:
        >>> accumulator = StatsAccumulator(2)
        >>> for batch in torch.arange(12.0).reshape(3, 2, 2):
        ...     accumulator = accumulator.update(batch)
        >>> stats = accumulator.finalize()
        >>> stats.n, stats.mean.tolist(), stats.cov[0].tolist()
        (6, [5.0, 6.0], [14.0, 14.0])
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._n = 0
        self._mean = torch.zeros(dim, dtype=torch.float64)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)

    def update(self, features: Float[Tensor, "n d"]) -> "StatsAccumulator":
        """Add the rows of one batch and return self.

        Raises:
            BadInput: If the rows do not have ``dim`` numbers.
            NumericalFailure: If a feature is not finite.
        """
        if features.shape[1] != self.dim:
            raise BadInput(
                f"Expected features of {self.dim} numbers; got {features.shape[1]}. "
                "Use one extractor for all batches."
            )
        require_finite(features, "features")
        for start in range(0, len(features), _ROWS_PER_UPDATE):
            rows = features[start : start + _ROWS_PER_UPDATE]
            self._merge(rows.to("cpu", torch.float64))
        return self

    def _merge(self, rows: Float64[Tensor, "n d"]) -> None:
        mean = rows.mean(dim=0)
        centred = rows - mean
        step = mean - self._mean
        total = self._n + len(rows)
        self._scatter += centred.T @ centred
        self._scatter += torch.outer(step, step) * (self._n * len(rows) / total)
        self._mean += step * (len(rows) / total)
        self._n = total

    def finalize(self) -> GaussianStats:
        """Return the statistics of everything seen so far.

        Raises:
            BadInput: If fewer than 2 rows were seen.
            NumericalFailure: If the features are too large to square.
        """
        if not torch.isfinite(self._scatter).all():
            raise NumericalFailure(
                "Expected features whose squares fit float64; got an overflow. Scale them down."
            )
        return GaussianStats(self._n, self._mean.clone(), self._scatter / max(self._n - 1, 1))
