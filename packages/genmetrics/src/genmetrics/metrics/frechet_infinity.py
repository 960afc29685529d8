"""The Frechet distance that infinitely many samples would have, by extrapolation.

To first order the bias of a Frechet distance falls as ``1 / n``, so a line through the distances
of subsets against ``1 / n`` meets the axis at the unbiased value (Chong and Forsyth, 2020).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from genmetrics.checks import Rows, as_features, require_finite
from genmetrics.errors import BadInput, UsageError
from genmetrics.features.stats import GaussianStats, StatsAccumulator
from genmetrics.metrics.frechet import frechet_distance
from genmetrics.metrics.frechet_error import frechet_standard_error

FEWEST_SAMPLES = 20
_LARGEST_FIRST_SIZE = 5000


@dataclass(frozen=True, slots=True)
class FDInfinity:
    """A Frechet distance extrapolated to infinitely many samples.

    Args:
        value: Height of the line at ``1 / n = 0``; rounding and noise can make it negative.
        slope: Its slope: the bias at ``n`` samples is about ``slope / n``.
        r2: Share of the distances' variance that the line explains. Far below 1, the bias is
            already lost in the noise, or ``1 / n`` is no good law (fewer samples than dimensions).
        se: Standard error of ``value``: of the line, and of the samples it is drawn from.
        sizes: Samples in each subset; the last is all of them.
        values: Distance at each size, mean over the repeats.
        dim: Dimensions of the features.
    """

    value: float
    slope: float
    r2: float
    se: float
    sizes: tuple[int, ...]
    values: tuple[float, ...]
    dim: int

    @property
    def needed(self) -> int:
        """Samples from which on the smallest subset has as many as there are dimensions."""
        return 10 * self.dim

    @property
    def reliable(self) -> bool:
        """Whether there are so many; with fewer, ``1 / n`` is no law and ``se`` says too little."""
        return self.sizes[-1] >= self.needed


def fd_infinity(
    samples: Rows,
    reference: GaussianStats,
    *,
    points: int = 15,
    repeats: int = 1,
    seed: int = 0,
) -> FDInfinity:
    """Extrapolate the Frechet distance of growing random subsets to infinitely many samples.

    Sizes run evenly from a tenth of the samples (at most 5000) to all of them. The reference's own
    bias stays in the result.

    Args:
        samples: Features of the samples, at least 20 rows; ten times as many as dimensions for the
            ``1 / n`` law to hold at a tenth of them, see ``reliable`` of the result.
        reference: Statistics of the real images.
        points: Sizes, at least 3.
        repeats: Subsets drawn at each size, at least 1.
        seed: Seed of the subsets, drawn without replacement.

    Raises:
        UsageError: If ``points`` or ``repeats`` is too small.
        BadInput: If there are too few samples or the dimensions differ.
        NumericalFailure: If a feature is not finite.

    Example:
        >>> samples = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
        >>> eye = torch.eye(3, dtype=torch.float64)
        >>> found = fd_infinity(samples, GaussianStats(500, torch.zeros(3).double(), eye))
        >>> found.sizes[0], found.sizes[-1], found.value < found.values[-1]
        (50, 500, True)
    """
    if points < 3 or repeats < 1:
        raise UsageError(
            f"Expected at least 3 points and 1 repeat; got {points} and {repeats}. "
            "A line with an error needs three points."
        )
    samples = as_features(samples, "features of the samples")
    if len(samples) < FEWEST_SAMPLES:
        raise BadInput(
            f"Expected at least {FEWEST_SAMPLES} samples to extrapolate from; got {len(samples)}. "
            "Add images."
        )
    require_finite(samples, "features of the samples")
    sizes = _sizes(len(samples), points)
    generator = torch.Generator().manual_seed(seed)
    values = [_mean_distance(samples, reference, size, repeats, generator) for size in sizes]
    intercept, slope, r2, line_error = _line(
        1 / torch.tensor(sizes, dtype=torch.float64), torch.tensor(values, dtype=torch.float64)
    )
    return FDInfinity(
        value=intercept,
        slope=slope,
        r2=r2,
        se=math.hypot(line_error, frechet_standard_error(samples, reference)),
        sizes=tuple(sizes),
        values=tuple(values),
        dim=samples.shape[1],
    )


def _sizes(n: int, points: int) -> list[int]:
    first = min(_LARGEST_FIRST_SIZE, n // 10)
    evenly = torch.linspace(first, n, points, dtype=torch.float64).round().int().unique()
    return [int(size) for size in evenly]


def _mean_distance(
    samples: Tensor, reference: GaussianStats, size: int, repeats: int, generator: torch.Generator
) -> float:
    """Return the mean distance of random subsets; there is one subset of all samples only."""
    if size == len(samples):
        repeats = 1
    total = 0.0
    for _ in range(repeats):
        rows = samples[torch.randperm(len(samples), generator=generator)[:size]]
        stats = StatsAccumulator(samples.shape[1]).update(rows).finalize()
        total += frechet_distance(stats, reference).value
    return total / repeats


def _line(x: Float64[Tensor, " p"], y: Float64[Tensor, " p"]) -> tuple[float, float, float, float]:
    """Fit ``y = intercept + slope x``; return both, R^2 and the standard error of the intercept."""
    centred = x - x.mean()
    spread = centred.square().sum()
    slope = (centred * y).sum() / spread
    intercept = y.mean() - slope * x.mean()
    residual = (y - intercept - slope * x).square().sum()
    total = (y - y.mean()).square().sum()
    r2 = 1 - residual / total if total > 0 else torch.ones(())
    variance = residual / (len(x) - 2) * (1 / len(x) + x.mean().square() / spread)
    return intercept.item(), slope.item(), r2.item(), variance.sqrt().item()
