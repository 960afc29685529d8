"""What came of an experiment, and whether the order that the paper found is there."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scipy.stats import t as student  # type: ignore[import-untyped]

from mimflow_train.reproduce.design import Claim

__all__ = ["Column", "Outcome", "Row", "mean_and_spread", "verdict"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One quantity.

    Attributes:
        key: Its name in rows.
        paper: What the paper calls it; empty if it has none.
        ours: What it is called here.
        digits: Decimal places.
    """

    key: str
    paper: str
    ours: str
    digits: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of a table.

    Attributes:
        label: What the line is.
        paper: The paper's numbers.
        ours: Ours, one for each seed.
        why_not: Why there are none of ours; empty if there are.
    """

    label: str
    paper: Mapping[str, float | str] = field(default_factory=dict)
    ours: Mapping[str, Sequence[float]] = field(default_factory=dict)
    why_not: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Everything that a report shows.

    Attributes:
        columns: The quantities.
        rows: The lines.
        counts: What the numbers are means over, in words.
        notes: What a reader must know besides.
        pictures: Names of the pictures in the report's folder.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    counts: str
    notes: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean over the seeds and their standard deviation, None of one seed.

    Example:
        >>> mean_and_spread([1.0, 3.0])[0], mean_and_spread([2.0])
        (2.0, (2.0, None))
    """
    spread = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), spread


def verdict(claim: Claim, rows: Sequence[Row]) -> str:
    """Say whether a claim's order is there: seed by seed, and against their spread.

    Args:
        claim: Which row the paper found better.
        rows: Lines with one number for each seed, in the same order of seeds.

    Returns:
        A sentence that begins with ``holds``, ``within the spread`` (the 95 % interval of the
        mean difference, by Student's t, contains 0), ``does not hold``, ``one seed`` or ``not
        run``.
    """
    found = {row.label: row.ours.get(claim.metric, ()) for row in rows}
    better, worse = found[claim.better], found[claim.worse]
    if not better or not worse:
        return "not run"
    gains = [claim.sign * (a - b) for a, b in zip(better, worse, strict=True)]
    gain, spread = mean_and_spread(gains)
    difference = f"difference {claim.sign * gain:+.4g}"
    if spread is None:
        order = "the paper's order" if gain > 0 else "not the paper's order"
        return f"one seed: {order}, {difference}, spread unknown"
    seeds = f"{difference} +- {spread:.2g} over {len(gains)} seeds (standard deviation)"
    error = spread / math.sqrt(len(gains))
    if abs(gain) <= _two_sided(len(gains)) * error:
        return f"within the spread: {seeds}"
    return f"holds: {seeds}" if gain > 0 else f"does not hold: {seeds}"


def _two_sided(count: int) -> float:
    """Return how many standard errors the 95 % interval of a mean reaches to either side."""
    return float(student.ppf(0.975, count - 1))
