"""Precision, recall, density and coverage from nearest neighbours, tile by tile.

Each set is described by balls around its members that reach to their k-th neighbour in the set.
Precision is the share of generated samples inside a real ball, recall the share of real ones inside
a generated ball (Kynkaanniemi et al., 2019); density and coverage count balls (Naeem et al., 2020).
Distances stay squared, one tile of them at a time, so memory does not grow with ``n x m``.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genmetrics.checks import OtherRows, Rows, as_two_sets, require_finite
from genmetrics.errors import BadInput, UsageError
from genmetrics.full_precision import full_float32

Arithmetic = Literal["float32", "float64", "adm-fp16"]
# Squared distances between some rows of the two blocks that it was made for.
Between = Callable[[slice, slice], Tensor]

_BLOCK = 10_000  # ADM's: one overflow sends the whole block back to float32
_FLOAT16_MAX = torch.finfo(torch.float16).max
# What rounding may leave of the squared distance of two equal rows, in units of its own.
_ROUNDINGS = 32


@dataclass(frozen=True, slots=True)
class PRResult:
    """Shares of two sets inside each other's balls, with everything that they depend on.

    Args:
        precision: Share of generated samples inside a real ball.
        recall: Share of real samples inside a generated ball.
        precision_se: Its standard error over new generated samples, see :func:`precision_recall`.
        recall_se: The same for ``recall``.
        density: Mean number of real balls around a generated sample, over ``k``; may be above 1.
            None unless asked for.
        coverage: Share of real balls with a generated sample inside. None unless asked for.
        density_se: Standard error of ``density``. None unless asked for.
        coverage_se: Standard error of ``coverage``. None unless asked for.
        n_generated: Generated samples.
        n_reference: Real samples.
        k: Neighbours that make a ball.
        mode: Arithmetic of the distances.
    """

    precision: float
    recall: float
    precision_se: float
    recall_se: float
    density: float | None
    coverage: float | None
    density_se: float | None
    coverage_se: float | None
    n_generated: int
    n_reference: int
    k: int
    mode: Arithmetic


def precision_recall(
    generated: Rows,
    reference: OtherRows,
    *,
    k: int = 3,
    tile: int = 1000,
    precision: Arithmetic = "float32",
    density_coverage: bool = False,
) -> PRResult:
    """Compute improved precision and recall, and density and coverage if asked for.

    A ball reaches to the k-th neighbour other than its centre and includes its border. Precision
    and density depend on the number of real images, recall and coverage on both numbers: compare
    results of equal numbers only.

    Standard errors say what other samples of the same generator would change, the real images
    being fixed. Real balls are then fixed too: precision is a binomial share and density a mean,
    and their errors hold without more. Coverage shares its samples between balls; the binomial
    error came within 10 % of the spread in simulations. For recall the balls themselves move; the
    error is the larger of the binomial one and the jackknife that takes away one ball and leaves
    the others as they are, which was 0.95 to 1.7 times the spread. Shares have two successes and
    two failures added for their error, so that a share of 0 or 1 is not taken for certain.

    Args:
        generated: Features of the samples.
        reference: Features of the real images; ADM takes 10,000.
        k: Neighbours that make a ball, at least 1 and fewer than the rows of either set.
        tile: Rows in a tile of distances, at least 1; it changes memory, not the result.
        precision: ``float32`` or ``float64``; or ``adm-fp16``, which repeats the float16 distances
            of ADM's evaluator, and its return to float32 where they overflow, for comparison
            with published tables.
        density_coverage: Whether to count balls as well.

    Raises:
        UsageError: If ``k`` or ``tile`` is below 1, or there is no such precision.
        BadInput: If a set has at most ``k`` rows, or the dimensions differ.
        NumericalFailure: If a feature is not finite.

    Example:
        >>> real = torch.arange(12.0).reshape(6, 2)
        >>> found = precision_recall(real[:2] + 0.5, real, k=1)
        >>> found.precision, found.recall, found.n_generated, found.n_reference
        (1.0, 0.5, 2, 6)
    """
    generated, reference = as_two_sets(generated, reference, ("generated", "reference"))
    _check(generated, reference, k, tile)
    reference = reference.to(generated.device)
    distances = _Distances(precision, tile, _middle(generated, reference))
    with full_float32(generated.device):
        found = _memberships(
            distances,
            (reference, _squared_radii(distances, reference, k)),
            (generated, _squared_radii(distances, generated, k)),
        )
    hits, recalled = found.balls_around > 0, found.balls_of_generated > 0
    density, covered = found.balls_around.double() / k, found.covered
    jackknife = _jackknife_error(found.sole, len(reference))
    return PRResult(
        precision=_share(hits),
        recall=_share(recalled),
        precision_se=_share_error(hits),
        recall_se=max(jackknife, _share_error(recalled)),
        density=density.mean().item() if density_coverage else None,
        coverage=_share(covered) if density_coverage else None,
        density_se=density.std().item() / math.sqrt(len(density)) if density_coverage else None,
        coverage_se=_share_error(covered) if density_coverage else None,
        n_generated=len(generated),
        n_reference=len(reference),
        k=k,
        mode=precision,
    )


def _check(generated: Tensor, reference: Tensor, k: int, tile: int) -> None:
    if k < 1 or tile < 1:
        raise UsageError(f"Expected k and tile of at least 1; got {k} and {tile}. Try 3 and 1000.")
    for name, features in (("generated", generated), ("reference", reference)):
        require_finite(features, f"features of the {name} set")
        if len(features) <= k:
            raise BadInput(
                f"Expected more than k={k} samples in the {name} set; got {len(features)}. "
                "Add images or lower k."
            )


def _middle(x: Tensor, y: Tensor) -> Tensor:
    """Return a point between the two sets; distances from there lose the fewest digits."""
    means = [features.mean(dim=0, dtype=torch.float64) for features in (x, y)]
    return (means[0] + means[1]) / 2


def _share(hits: Bool[Tensor, " n"]) -> float:
    return hits.double().mean().item()


def _share_error(hits: Bool[Tensor, " n"]) -> float:
    """Return the binomial standard error of a share, after Agresti and Coull (1998)."""
    n = len(hits) + 4
    share = (hits.sum().item() + 2) / n
    return math.sqrt(share * (1 - share) / n)


def _jackknife_error(sole: Int64[Tensor, " n"], m: int) -> float:
    """Return the standard error of recall, given how many of ``m`` real rows each ball alone has.

    Without sample ``i`` recall would fall by ``sole_i / m``.
    """
    n = len(sole)
    return sole.double().std(correction=0).item() * math.sqrt(n - 1) / m


class _Memberships(NamedTuple):
    """Who is in whose ball.

    Args:
        balls_around: Real balls around each generated row.
        covered: Whether a real ball holds a generated row.
        balls_of_generated: Generated balls around each real row.
        sole: Real rows that a generated ball holds and no other does.
    """

    balls_around: Int64[Tensor, " n"]
    covered: Bool[Tensor, " m"]
    balls_of_generated: Int64[Tensor, " m"]
    sole: Int64[Tensor, " n"]


class _Distances(NamedTuple):
    """How squared distances are computed, and how many at a time."""

    arithmetic: Arithmetic
    tile: int
    middle: Tensor

    @property
    def symmetric(self) -> bool:
        """Whether the distance from v to u is that from u to v; ADM rounds in another order."""
        return self.arithmetic != "adm-fp16"

    def tiles(
        self, u: Tensor, v: Tensor, *, upper: bool = False
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield rows of u, rows of v and their squared distances; all, or from the diagonal up."""
        for rows in _ranges(0, len(u), _BLOCK):
            for columns in _ranges(0, len(v), _BLOCK):
                between = self._between(u[rows], v[columns])
                for i in _ranges(rows.start, rows.stop, self.tile):
                    for j in _ranges(columns.start, columns.stop, self.tile):
                        if not upper or i.start <= j.start:
                            yield i, j, between(_shift(i, rows.start), _shift(j, columns.start))

    def _between(self, u: Tensor, v: Tensor) -> Between:
        if self.arithmetic == "float32":
            return _between_floats(u, v, self.middle.float())
        if self.arithmetic == "float64":
            return _between_floats(u, v, self.middle)
        if self.arithmetic == "adm-fp16":
            halves = _between_halves(u, v)
            if self._all_finite(halves, u, v):
                return halves
            return _between_floats(u, v, torch.zeros_like(self.middle, dtype=torch.float32))
        raise UsageError(
            f"Expected the precision float32, float64 or adm-fp16; got {self.arithmetic!r}."
        )

    def _all_finite(self, between: Between, u: Tensor, v: Tensor) -> bool:
        """Say whether every float16 distance is finite, by the triangle inequality if it can."""
        reach = sum(x.float().square().sum(dim=1).max().sqrt() for x in (u, v))
        if reach**2 < 0.9 * _FLOAT16_MAX:
            return True
        return all(
            bool(torch.isfinite(between(i, j)).all())
            for i in _ranges(0, len(u), self.tile)
            for j in _ranges(0, len(v), self.tile)
        )


def _ranges(start: int, stop: int, step: int) -> list[slice]:
    return [slice(first, min(first + step, stop)) for first in range(start, stop, step)]


def _shift(rows: slice, start: int) -> slice:
    return slice(rows.start - start, rows.stop - start)


def _between_floats(u: Tensor, v: Tensor, middle: Tensor) -> Between:
    """Return ``|u|^2 - 2 u.v + |v|^2`` in the dtype of ``middle``, exactly 0 for equal rows."""
    u, v = (rows.to(middle.dtype) - middle for rows in (u, v))
    norms = [rows.square().sum(dim=1, dtype=torch.float64).to(rows.dtype) for rows in (u, v)]
    rounding = _ROUNDINGS * torch.finfo(middle.dtype).eps * norms[0]

    def between(i: slice, j: slice) -> Tensor:
        squared = torch.addmm(norms[1][j], u[i], v[j].T, alpha=-2).add_(norms[0][i, None])
        if (squared.amin(dim=1) <= rounding[i]).any():
            squared.masked_fill_(squared <= rounding[i, None], 0)
        return squared

    return between


def _between_halves(u: Tensor, v: Tensor) -> Between:
    """Return the same as ADM's evaluator: every sum, product and difference rounded to float16.

    As there, twice a product above 65,504 makes a distance of 0, which is finite.
    """
    u, v = u.half(), v.half()
    norms = [rows.square().float().sum(dim=1).half() for rows in (u, v)]

    def between(i: slice, j: slice) -> Tensor:
        products = (u[i].float() @ v[j].float().T).half()
        return (norms[0][i, None] - 2 * products + norms[1][j]).clamp(min=0).float()

    return between


def _squared_radii(
    distances: _Distances, features: Float[Tensor, "n d"], k: int
) -> Float[Tensor, " n"]:
    """Return the squared distance of each row to its k-th neighbour, itself being the 0-th."""
    nearest = features.new_full((len(features), k + 1), math.inf, dtype=torch.float64)

    def see(rows: slice, squared: Tensor) -> None:
        best = squared.topk(min(k + 1, squared.shape[1]), dim=1, largest=False).values
        both = torch.cat([nearest[rows], best], dim=1)
        nearest[rows] = both.topk(k + 1, dim=1, largest=False).values

    for i, j, squared in distances.tiles(features, features, upper=distances.symmetric):
        see(i, squared)
        if i != j and distances.symmetric:
            see(j, squared.T)
    return nearest.amax(dim=1)


def _memberships(
    distances: _Distances,
    real: tuple[Float[Tensor, "m d"], Float[Tensor, " m"]],
    made: tuple[Float[Tensor, "n d"], Float[Tensor, " n"]],
) -> _Memberships:
    around_made, around_real = (torch.zeros_like(r, dtype=torch.int64) for _, r in (made, real))
    some_holder = torch.zeros_like(around_real)
    covered = torch.zeros_like(around_real, dtype=torch.bool)
    for i, j, squared in distances.tiles(real[0], made[0]):
        in_real_ball = squared <= real[1][i, None]
        around_made[j] += in_real_ball.sum(dim=0)
        covered[i] |= in_real_ball.any(dim=1)
        in_made_ball = squared <= made[1][j]
        around_real[i] += in_made_ball.sum(dim=1)
        holder = in_made_ball.int().argmax(dim=1) + j.start
        some_holder[i] = torch.where(in_made_ball.any(dim=1), holder, some_holder[i])
    sole = torch.bincount(some_holder[around_real == 1], minlength=len(around_made))
    return _Memberships(around_made, covered, around_real, sole)
