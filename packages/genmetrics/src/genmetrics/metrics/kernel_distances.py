"""Squared maximum mean discrepancies: KID and CMMD, in float64 and tile by tile.

    MMD^2 = E k(x, x') - 2 E k(x, y) + E k(y, y')

Errors are of first order: with ``h(x) = E k(x, x') - E k(x, y)`` over the other samples, a set of
``n`` contributes ``4 var h / n`` to the variance. For two equal sources, where that is the order of
its own noise, the error is up to twice too large.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from genmetrics.checks import OtherRows, Rows, as_two_sets, require_finite
from genmetrics.errors import BadInput, UsageError, one_of

Kernel = Callable[[Tensor, Tensor], Tensor]
Mode = Literal["subsets", "full"]

_TILE = 2000


@dataclass(frozen=True, slots=True)
class KIDResult:
    """A kernel Inception distance with its choices and counts.

    Args:
        mean: Unbiased squared MMD, mean over the subsets; below 0 by chance for equal sources.
        std: Population standard deviation over the subsets, as others print it; it is the noise
            of one subset, not of ``mean``. 0 in full mode.
        se: Standard error of ``mean``, over new samples and new subsets.
        n_x: Samples of the first set.
        n_y: Samples of the second set.
        subsets: Pairs of subsets; 1 in full mode.
        subset_size: Rows of each subset; None in full mode, which takes all.
        mode: ``subsets`` or ``full``.
    """

    mean: float
    std: float
    se: float
    n_x: int
    n_y: int
    subsets: int
    subset_size: int | None
    mode: Mode


@dataclass(frozen=True, slots=True)
class CMMDResult:
    """A CLIP maximum mean discrepancy.

    Args:
        value: Biased squared MMD times the scale, at least 0 up to rounding.
        se: Its standard error over new samples.
        n_x: Samples of the first set.
        n_y: Samples of the second set.
    """

    value: float
    se: float
    n_x: int
    n_y: int


def kid(
    x: Rows,
    y: OtherRows,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
    mode: Mode = "subsets",
) -> KIDResult:
    """Compute the kernel Inception distance, with the kernel ``(x.y / d + 1)^3``.

    Args:
        x: Features of the samples.
        y: Features of the real images.
        subsets: Pairs of random subsets, at least 1.
        subset_size: Rows of each, drawn without replacement; at least 2.
        seed: Seed of the draws.
        mode: ``subsets`` for the mean that the field reports; ``full`` for one value over all
            samples, where subsets, size and seed are not used.

    Raises:
        UsageError: If there is no such mode, or an option is too small.
        BadInput: If a set is too small, or the dimensions differ.
        NumericalFailure: If a feature is not finite.

    Example:
        >>> x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
        >>> found = kid(x, x + 1, subsets=5, subset_size=20)
        >>> 0 < found.se < found.mean
        True
    """
    one_of(get_args(Mode), mode=mode)
    x, y = as_two_sets(x, y)
    _check(x, y)
    dim = x.shape[1]

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        return (u @ v.T / dim + 1) ** 3

    if mode == "full":
        whole = _discrepancy(x, y, kernel)
        error = math.sqrt(whole.x_variance + whole.y_variance)
        return KIDResult(whole.unbiased, 0.0, error, len(x), len(y), 1, None, mode)
    if subsets < 1 or subset_size < 2:
        raise UsageError(
            f"Expected at least 1 subset of at least 2; got {subsets} of {subset_size}. "
            "Try 100 subsets of 1000."
        )
    if min(len(x), len(y)) < subset_size:
        raise BadInput(
            f"Expected at least subset_size={subset_size} samples in each set; got {len(x)} and "
            f"{len(y)}. Lower subset_size, and compare results of equal sizes only."
        )
    generator = torch.Generator().manual_seed(seed)
    draws = [
        _discrepancy(_draw(x, subset_size, generator), _draw(y, subset_size, generator), kernel)
        for _ in range(subsets)
    ]
    values = [draw.unbiased for draw in draws]
    variance = 0.0
    for n, of_draws in (
        (len(x), fmean(draw.x_variance for draw in draws)),
        (len(y), fmean(draw.y_variance for draw in draws)),
    ):
        shared = subset_size / n  # of this variance, which no number of subsets takes away
        variance += of_draws * (shared + (1 - shared) / subsets)
    return KIDResult(
        mean=fmean(values),
        std=pstdev(values),
        se=math.sqrt(variance),
        n_x=len(x),
        n_y=len(y),
        subsets=subsets,
        subset_size=subset_size,
        mode=mode,
    )


def cmmd(
    x: Rows,
    y: OtherRows,
    *,
    sigma: float = 10.0,
    scale: float = 1000.0,
) -> CMMDResult:
    """Compute the squared MMD of unit-normalised features with a Gaussian kernel.

    It is called CMMD for features of CLIP ViT-L/14 at 336 pixels (Jayasumana et al., 2024). The
    kernel of unit vectors lies in [0.98, 1] for the default width, so float32 would lose most
    digits.

    Args:
        x: Features of the samples, of any length but 0.
        y: Features of the real images.
        sigma: Width of the kernel, above 0.
        scale: Factor of the result.

    Raises:
        UsageError: If ``sigma`` is not above 0.
        BadInput: If a set has fewer than 2 rows, a row is 0, or the dimensions differ.
        NumericalFailure: If a feature is not finite.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
        >>> found = cmmd(x, -x, sigma=1.0, scale=1.0)
        >>> round(found.value, 6)  # 2 - 2 exp(-2^2 / 2)
        1.729329
    """
    if not sigma > 0:
        raise UsageError(f"Expected sigma above 0; got {sigma}. Try 10.")
    x, y = as_two_sets(x, y)
    _check(x, y)

    def kernel_less_one(u: Tensor, v: Tensor) -> Tensor:
        return torch.expm1((u @ v.T - 1) / sigma**2)  # |u - v|^2 = 2 - 2 u.v

    # MMD^2 does not change with a constant added to the kernel; without the 1 it keeps its digits.
    whole = _discrepancy(_unit(x), _unit(y), kernel_less_one)
    error = math.sqrt(whole.x_variance + whole.y_variance)
    return CMMDResult(scale * whole.biased, abs(scale) * error, len(x), len(y))


def _check(x: Tensor, y: Tensor) -> None:
    for name, features in (("first", x), ("second", y)):
        require_finite(features, f"features of the {name} set")
        if len(features) < 2:
            raise BadInput(
                f"Expected at least 2 samples in the {name} set; got {len(features)}. Add images."
            )


def _unit(features: Float[Tensor, "n d"]) -> Float64[Tensor, "n d"]:
    rows = features.double()
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    if not norms.all():
        raise BadInput(
            f"Expected features with a direction; got 0 in {int((norms == 0).sum())} rows. "
            "Check these images and the network's weights."
        )
    unit: Tensor = rows / norms
    return unit


def _draw(features: Tensor, size: int, generator: torch.Generator) -> Tensor:
    chosen = torch.randperm(len(features), generator=generator)[:size]
    rows: Tensor = features[chosen.to(features.device)]
    return rows


class _Discrepancy(NamedTuple):
    """A squared MMD without and with the pairs of a sample with itself, and the variance."""

    unbiased: float
    biased: float
    x_variance: float
    y_variance: float


def _discrepancy(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], kernel: Kernel) -> _Discrepancy:
    n, m = len(x), len(y)
    y = y.to(x.device)
    cross_x, cross_y = _cross_sums(x, y, kernel)
    within_x, own_x = _within_sums(x, kernel)
    within_y, own_y = _within_sums(y, kernel)
    across = 2 * cross_x.sum() / (n * m)
    h_x = within_x / (n - 1) - cross_x / m
    h_y = within_y / (m - 1) - cross_y / n
    unbiased = within_x.sum() / (n * (n - 1)) + within_y.sum() / (m * (m - 1)) - across
    biased = (within_x.sum() + own_x) / n**2 + (within_y.sum() + own_y) / m**2 - across
    return _Discrepancy(
        unbiased.item(), biased.item(), 4 * h_x.var().item() / n, 4 * h_y.var().item() / m
    )


def _cross_sums(
    x: Tensor, y: Tensor, kernel: Kernel
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " m"]]:
    """Return the sums of the kernel over the second set, and over the first."""
    sums = [torch.zeros(len(rows), dtype=torch.float64, device=x.device) for rows in (x, y)]
    for i, u in enumerate(x.split(_TILE)):
        for j, v in enumerate(y.split(_TILE)):
            values = kernel(u.double(), v.double())
            sums[0][i * _TILE :][: len(u)] += values.sum(dim=1)
            sums[1][j * _TILE :][: len(v)] += values.sum(dim=0)
    return sums[0], sums[1]


def _within_sums(x: Tensor, kernel: Kernel) -> tuple[Float64[Tensor, " n"], Float64[Tensor, ""]]:
    """Return each row's sum of the kernel over the other rows, and the sum over equal pairs."""
    sums = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    own = torch.zeros((), dtype=torch.float64, device=x.device)
    parts = x.split(_TILE)
    for i, u in enumerate(parts):
        for j in range(i, len(parts)):
            values = kernel(u.double(), parts[j].double())
            if i == j:
                own += values.diagonal().sum()
                values.fill_diagonal_(0)
            else:
                sums[j * _TILE :][: len(parts[j])] += values.sum(dim=0)
            sums[i * _TILE :][: len(u)] += values.sum(dim=1)
    return sums, own
