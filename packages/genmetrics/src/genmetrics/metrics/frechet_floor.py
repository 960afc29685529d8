"""What the distance is at one sample count: real against real, and samples against real.

With few samples a Frechet distance is biased upwards, by about as much for a perfect generator as
for real images. The distance between two disjoint sets of real images, at the same count, says how
much of a score is that bias.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean, pstdev

import torch
from jaxtyping import Float
from torch import Tensor

from genmetrics.errors import BadInput
from genmetrics.metrics.frechet import frechet_distance_from_features

_NUM_SPLITS = 3


@dataclass(frozen=True, slots=True)
class EqualCountDistance:
    """A Frechet distance between random subsets of ``n`` and ``n`` images, over several draws.

    Args:
        value: Mean over the draws.
        std: Standard deviation over the draws; what the choice of images alone changes.
        n: Images on each side.
        num_draws: Draws.
    """

    value: float
    std: float
    n: int
    num_draws: int


def frechet_floor(reference: Float[Tensor, "m d"], n: int, *, seed: int = 0) -> EqualCountDistance:
    """Compute the distance between disjoint random subsets of the reference.

    Args:
        reference: Features of the real images, at least 4 rows.
        n: Rows wanted on each side; at most half of the reference is taken, see the result's ``n``.
        seed: Seed of the draws.

    Raises:
        BadInput: If the reference or ``n`` is too small.

    Example:
        >>> real = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
        >>> floor = frechet_floor(real, 100)
        >>> floor.n, 0 < floor.value < 1
        (20, True)
    """
    n = _allowed_count(reference, n)
    return _mean_distance(
        ((reference[order[:n]], reference[order[n : 2 * n]]) for order in _orders(reference, seed)),
        n,
    )


def frechet_at_equal_count(
    samples: Float[Tensor, "n d"], reference: Float[Tensor, "m d"], n: int, *, seed: int = 0
) -> EqualCountDistance:
    """Compute the distance between random subsets of the samples and of the reference.

    The number to hold against :func:`frechet_floor` of the same ``n`` and seed, which draws the
    same reference images.

    Args:
        samples: Features of the samples.
        reference: Features of the real images.
        n: Rows wanted on each side; at most all samples and half of the reference are taken.
        seed: Seed of the draws.

    Raises:
        BadInput: If a set or ``n`` is too small.
    """
    n = min(_allowed_count(reference, n), len(samples))
    # Another seed for the samples, so that sets of equal size are not drawn in step.
    orders = zip(_orders(samples, seed + 1), _orders(reference, seed), strict=True)
    return _mean_distance(((samples[a[:n]], reference[b[:n]]) for a, b in orders), n)


def _allowed_count(reference: Tensor, n: int) -> int:
    if len(reference) < 4 or n < 2:
        raise BadInput(
            f"Expected at least 4 reference images and n of at least 2; got {len(reference)} and "
            f"{n}. Add images."
        )
    return min(n, len(reference) // 2)


def _orders(features: Tensor, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(_NUM_SPLITS):
        yield torch.randperm(len(features), generator=generator)


def _mean_distance(pairs: Iterator[tuple[Tensor, Tensor]], n: int) -> EqualCountDistance:
    values = [frechet_distance_from_features(x, y).value for x, y in pairs]
    return EqualCountDistance(fmean(values), pstdev(values), n, len(values))
