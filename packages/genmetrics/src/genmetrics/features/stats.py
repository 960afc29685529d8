"""Mean and covariance of a set of features, in float64 and streamed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from genmetrics.checks import Rows, as_features, require_finite
from genmetrics.errors import BadInput, NumericalFailure, some
from genmetrics.features.sums import CentredSums, GridSums

ROWS_PER_UPDATE = 4096
_FORCE = "or merge them all the same with --force (force=True in Python)"
_MUST_AGREE = ("extractor", "weights_sha256", "preprocess_id", "output")


class IncompatibleStats(BadInput):
    """Statistics of different features were about to be compared or merged."""


@dataclass(frozen=True, slots=True)
class GaussianStats:
    """The Gaussian that a Frechet distance sees.

    Args:
        n: Samples behind the numbers, at least 2; None if a file does not say.
        mean: Mean of the features ``(d,)``; kept in float64, as a tensor, whatever it comes as.
        cov: Unbiased covariance ``(d, d)``, divided by ``n - 1``; likewise.
        meta: Where they are from: ``extractor``, ``weights_sha256``, ``preprocess_id``,
            ``output``, ``source_fingerprint``, ``split``, versions; ``parts`` of merged ones, as
            JSON. Values are words or counts.

    Raises:
        BadInput: If ``n`` is below 2, the shapes are others or a number is not finite.
    """

    n: int | None
    mean: Float64[Tensor, " d"]
    cov: Float64[Tensor, "d d"]
    meta: Mapping[str, str | int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 2:
            raise BadInput(
                f"Expected at least 2 samples for a covariance; got {self.n}. Add images."
            )
        for name in ("mean", "cov"):
            object.__setattr__(self, name, _in_float64(getattr(self, name)))  # it is frozen
        if self.mean.ndim != 1 or self.cov.shape != (len(self.mean),) * 2:
            raise BadInput(
                "Expected a mean (d,) and a covariance (d, d); got "
                f"{tuple(self.mean.shape)} and {tuple(self.cov.shape)}. Take both of one file."
            )
        bad = ~(torch.isfinite(self.mean) & torch.isfinite(self.cov).all(dim=1))
        if bad.any():
            rows = bad.nonzero().flatten().tolist()
            raise BadInput(
                f"Expected finite mean and covariance; got NaN or infinity in {len(rows)} of "
                f"{len(bad)} dimensions ({some(rows, 5)}). Rebuild the statistics."
            )

    @property
    def dim(self) -> int:
        """Numbers per feature."""
        return len(self.mean)

    @property
    def rank_bound(self) -> int:
        """Largest rank that a covariance of ``n`` samples can have; ``dim`` if ``n`` is unknown."""
        return self.dim if self.n is None else min(self.dim, self.n - 1)


def _in_float64(values: object) -> Tensor:
    if isinstance(values, np.ndarray):
        values = np.array(values, np.float64, order="C")  # of its own, and of this machine's bytes
    return torch.as_tensor(values, dtype=torch.float64).detach()


def require_compatible(
    a: GaussianStats, b: GaussianStats, *, force: bool = False, advice: str = "Build both alike."
) -> None:
    """Raise unless two statistics can be of one kind of feature, as far as their ``meta`` says.

    Args:
        a: Statistics.
        b: Other statistics.
        force: Whether to let differing ``meta`` pass; a differing dimension never does.
        advice: What to do where ``force`` would help.

    Raises:
        IncompatibleStats: If dimension, extractor, weights, preprocessing or output differ.
    """
    if a.dim != b.dim:
        raise IncompatibleStats(
            f"Expected statistics of one dimension; got {a.dim} and {b.dim}. "
            "Use one extractor and output for both."
        )
    for key in () if force else _MUST_AGREE:
        if key in a.meta and key in b.meta and a.meta[key] != b.meta[key]:
            raise IncompatibleStats(
                f"Expected statistics of one {key}; got {a.meta[key]} and {b.meta[key]}. " + advice
            )


def merge_stats(parts: Sequence[GaussianStats], *, force: bool = False) -> GaussianStats:
    """Return the statistics of all samples of disjoint parts, to rounding.

    The means and scatters are combined exactly (Chan, Golub and LeVeque, 1983). What all parts
    say alike stays in ``meta``; the rest is in :func:`provenance` of the result.

    Args:
        parts: Statistics with known ``n``, at least one.
        force: Whether to merge in spite of differing ``meta`` or of images that come twice.

    Raises:
        BadInput: If there is no part, or one of unknown ``n``.
        IncompatibleStats: If the parts are of different features, or two of the same images.

    Example:
        >>> x = torch.tensor([[0.0], [2.0], [4.0], [6.0]])
        >>> parts = [StatsAccumulator(1).update(rows).finalize() for rows in (x[:2], x[2:])]
        >>> merged = merge_stats(parts)
        >>> merged.n, merged.mean.item(), round(merged.cov.item(), 6)
        (4, 3.0, 6.666667)
    """
    if not parts:
        raise BadInput("Expected statistics to merge; got none. Name at least one file.")
    sums = CentredSums(parts[0].dim)
    for part in parts:
        require_compatible(parts[0], part, force=force, advice=f"Build both alike, {_FORCE}.")
        if part.n is None:
            raise BadInput(
                "Expected statistics with a known number of samples; got some without. "
                "Add it with `genmetrics stats convert --n`."
            )
        other = CentredSums(part.dim)
        other.n, other.mean, other.scatter = part.n, part.mean, part.cov * (part.n - 1)
        sums.merge(other)
    if not force:
        _require_disjoint(parts)
    common = set(parts[0].meta.items()).intersection(*(part.meta.items() for part in parts))
    meta = dict(sorted(common))
    if len(parts) > 1:
        meta["parts"] = json.dumps([entry for part in parts for entry in provenance(part)])
    return GaussianStats(*sums.finalize(), meta=meta)


def provenance(stats: GaussianStats) -> list[dict[str, Any]]:
    """Return ``n`` and ``meta`` of each set of images behind statistics, through all merges.

    Example:
        >>> a, b = (torch.eye(3).double()[:2] + shift for shift in (0, 1))
        >>> parts = [StatsAccumulator(3).update(rows).finalize() for rows in (a, b)]
        >>> [part["n"] for part in provenance(merge_stats(parts))]
        [2, 2]
    """
    if "parts" in stats.meta:
        parts: list[dict[str, Any]] = json.loads(str(stats.meta["parts"]))
        return parts
    return [{"n": stats.n, **stats.meta}]


def _require_disjoint(parts: Sequence[GaussianStats]) -> None:
    identities = [_identities(part) for part in parts]
    for (i, a), (j, b) in combinations(enumerate(identities), 2):
        if both := a.keys() & b.keys():
            raise IncompatibleStats(
                f"Expected statistics of disjoint sets; got {a[min(both)]} in part {i + 1} and in "
                f"part {j + 1}. Leave one out, {_FORCE}."
            )


def _identities(stats: GaussianStats) -> dict[str, str]:
    """Return what each set of images behind statistics is known by, and in which words."""
    entries = provenance(stats)
    if all("source_fingerprint" in entry for entry in entries):
        return {
            entry["source_fingerprint"]: f"the images of {entry.get('source', 'one set')} "
            f"(fingerprint {entry['source_fingerprint'][:12]})"
            for entry in entries
        }
    numbers = torch.cat([stats.mean, stats.cov.flatten()]).numpy().tobytes()
    return {hashlib.sha256(numbers).hexdigest(): "the same mean and covariance"}


class StatsAccumulator:
    """Gather mean and covariance batch by batch, in float64, keeping no features.

    Batches are merged by their centred sums (Chan, Golub and LeVeque, 1983), so a mean far from
    zero costs no digits. The order of batches changes the result by rounding only.

    With ``exact``, features are first rounded to multiples of 2^-14 and their sums are whole
    numbers: any order, batching, sharding and merging gives the same bits.

    Args:
        dim: Numbers per feature, at least 1.
        exact: Whether to sum on the grid; for features below 64 in magnitude and up to 2^23 rows.

    Example:
        >>> accumulator = StatsAccumulator(2)
        >>> for batch in torch.arange(12.0).reshape(3, 2, 2):
        ...     accumulator = accumulator.update(batch)
        >>> stats = accumulator.finalize()
        >>> stats.n, stats.mean.tolist(), stats.cov[0].tolist()
        (6, [5.0, 6.0], [14.0, 14.0])
    """

    def __init__(self, dim: int, *, exact: bool = False) -> None:
        self.dim = dim
        self.exact = exact
        self._sums: CentredSums | GridSums = GridSums(dim) if exact else CentredSums(dim)

    def update(self, features: Rows) -> "StatsAccumulator":
        """Add the rows of one batch and return self.

        Raises:
            BadInput: If the rows do not have ``dim`` numbers, or leave the range of ``exact``.
            NumericalFailure: If a feature is not finite.
        """
        features = as_features(features)
        if features.shape[1] != self.dim:
            raise BadInput(
                f"Expected features of {self.dim} numbers; got {features.shape[1]}. "
                "Use one extractor for all batches."
            )
        require_finite(features, "features")
        for start in range(0, len(features), ROWS_PER_UPDATE):
            rows = features[start : start + ROWS_PER_UPDATE]
            self._sums.add(rows.to("cpu", torch.float64))
        return self

    def merge(self, other: "StatsAccumulator") -> "StatsAccumulator":
        """Add everything that another accumulator has seen and return self.

        Raises:
            BadInput: If the other has another dimension or is not exact alike, or the rows of both
                leave the range of ``exact``.
        """
        if other.dim != self.dim or other.exact != self.exact:
            raise BadInput(
                f"Expected accumulators of one kind; got dim={self.dim}, exact={self.exact} and "
                f"dim={other.dim}, exact={other.exact}. Build all shards alike."
            )
        self._sums.merge(other._sums)  # type: ignore[arg-type]  # of one kind, as just checked
        return self

    def finalize(self) -> GaussianStats:
        """Return the statistics of everything seen so far.

        Raises:
            BadInput: If fewer than 2 rows were seen.
            NumericalFailure: If the features are too large to square.
        """
        n, mean, cov = self._sums.finalize()
        if not torch.isfinite(cov).all():
            raise NumericalFailure(
                "Expected features whose squares fit float64; got an overflow. Scale them down."
            )
        return GaussianStats(n, mean, cov)
