"""What came of an experiment, and whether the order that the paper found is there."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scipy.stats import t as student  # type: ignore[import-untyped]

from mimflow_train.reproduce.design import COLLAPSE, COSTS, Claim

__all__ = ["Column", "Origin", "Outcome", "Row", "mean_and_spread", "verdict"]


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
class Origin:
    """What a row's numbers are of, by the checkpoint that was measured.

    Attributes:
        run: Name of the run's folder.
        seed: Its seed.
        steps: Where it ended.
        commit: The code that saved the checkpoint.
        torch: The torch that it was saved with.
        precision: In which it was trained, and on what kind of device.
    """

    run: str
    seed: int
    steps: int
    commit: str
    torch: str
    precision: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of a table.

    Attributes:
        label: What the line is.
        paper: The paper's numbers.
        ours: Ours, one for each seed; NaN where a seed has none.
        why_not: Why the row was not run; empty if it was.
        diverged: Seeds whose training diverged.
        overflowed: Seeds whose samples or scores are not finite.
        runs: What was measured; two for a seed that was trained in two stages.
        samples: Files of the samples, from the output folder.
    """

    label: str
    paper: Mapping[str, float | str] = field(default_factory=dict)
    ours: Mapping[str, Sequence[float]] = field(default_factory=dict)
    why_not: str = ""
    diverged: tuple[int, ...] = ()
    overflowed: tuple[int, ...] = ()
    runs: tuple[Origin, ...] = ()
    samples: tuple[str, ...] = ()

    def numbers(self, key: str) -> list[float]:
        """Return the numbers that there are of one quantity.

        Args:
            key: The column's.
        """
        return [value for value in self.ours.get(key, ()) if not math.isnan(value)]

    @property
    def lost(self) -> str:
        """Which seeds have no numbers and why, in words; empty if all have."""
        reasons = {"diverged": self.diverged, "overflowed": self.overflowed}
        words = (f"{why} at seed {', '.join(map(str, of))}" for why, of in reasons.items() if of)
        return " and ".join(words)


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
    """Return the mean over the seeds and their standard deviation.

    The second is None of one seed, and where a number is infinite.

    Example:
        >>> mean_and_spread([1.0, 3.0])[0], mean_and_spread([2.0])
        (2.0, (2.0, None))
    """
    known = len(values) > 1 and all(map(math.isfinite, values))
    spread = statistics.stdev(values) if known else None
    return statistics.fmean(values), spread


def verdict(claim: Claim, rows: Sequence[Row]) -> str:
    """Say whether a claim's order is there: seed by seed, and against their spread.

    Args:
        claim: Which row the paper found better.
        rows: Lines with one number for each seed, in the same order of seeds.

    Returns:
        A sentence that begins with ``holds``, ``within the spread`` (the 95 % interval of the
        mean difference, by Student's t, contains 0), ``does not hold``, ``one seed`` or ``one
        measurement``; with ``diverged`` or ``overflowed`` where seeds have no number for that
        reason, ``unresolved`` where a number is infinite, ``not run`` or ``not measured``.
    """
    found = {row.label: row for row in rows}
    better, worse = found[claim.better], found[claim.worse]
    if not (_was_run(better) and _was_run(worse)):
        return "not run"
    if claim.metric == COLLAPSE:
        return _collapse(better, worse)
    pairs = _pairs(better.ours.get(claim.metric, ()), worse.ours.get(claim.metric, ()))
    judged = _judge(claim, pairs) if pairs else ""
    lost = [f"`{row.label}` {row.lost}" for row in (better, worse) if row.lost]
    if not lost:
        return judged or "not measured"
    others = f"; over the other seeds {judged}" if judged else ""
    reason = "diverged" if better.diverged or worse.diverged else "overflowed"
    return f"{reason}: {' and '.join(lost)}{others}"


def _was_run(row: Row) -> bool:
    return bool(row.lost or any(row.ours.values()))


def _collapse(better: Row, worse: Row) -> str:
    """Say whether one of two rows diverged and the other did not."""
    if not worse.diverged:
        return f"does not hold: `{worse.label}` did not diverge"
    if better.diverged:
        return f"both diverged: `{worse.label}` {worse.lost}, `{better.label}` {better.lost}"
    partly = worse.overflowed or any(map(worse.numbers, worse.ours))
    return f"{'holds in part' if partly else 'holds'}: `{worse.label}` {worse.lost}"


def _pairs(better: Sequence[float], worse: Sequence[float]) -> list[tuple[float, float]]:
    """Return both numbers of every seed that has both."""
    if not better or not worse:
        return []
    both = zip(better, worse, strict=True)
    return [pair for pair in both if not any(map(math.isnan, pair))]


def _judge(claim: Claim, pairs: Sequence[tuple[float, float]]) -> str:
    if not all(math.isfinite(value) for pair in pairs for value in pair):
        ordered = sum(claim.sign * a > claim.sign * b for a, b in pairs)
        return f"unresolved: infinite numbers; the paper's order in {ordered} of {len(pairs)} seeds"
    gains = [claim.sign * (a - b) for a, b in pairs]
    gain, spread = mean_and_spread(gains)
    difference = f"difference {claim.sign * gain + 0.0:+.4g}"  # no -0 of two equal numbers
    if spread is None:
        order = "the paper's order" if gain > 0 else "not the paper's order"
        order = order if gain else "equal"
        once = "one measurement" if claim.metric in COSTS else "one seed"
        return f"{once}: {order}, {difference}, spread unknown"
    seeds = f"{difference} +- {spread:.2g} over {len(gains)} seeds (standard deviation)"
    error = spread / math.sqrt(len(gains))
    if abs(gain) <= _two_sided(len(gains)) * error:
        return f"within the spread: {seeds}"
    return f"holds: {seeds}" if gain > 0 else f"does not hold: {seeds}"


def _two_sided(count: int) -> float:
    """Return how many standard errors the 95 % interval of a mean reaches to either side."""
    return float(student.ppf(0.975, count - 1))
