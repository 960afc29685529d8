"""Two reports side by side: is the difference larger than the noise? Imports no torch."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genmetrics.errors import BadInput
from genmetrics.evaluation.protocols import SCHEMA

__all__ = ["Difference", "compare_reports", "read_report", "reference_doubts"]

_CONSTANTS_OF = {  # which scores a constant changes
    "neighbours": ("precision", "recall", "density", "coverage"),
    "pr_precision": ("precision", "recall", "density", "coverage"),
    "is_chunk": ("is",),
    "kid_subsets": ("kid",),
    "kid_subset_size": ("kid",),
    "cmmd_sigma": ("cmmd",),
}


# What a score's expectation depends on, apart from the images; kid draws subsets of one size.
_FREE_OF_SAMPLE_COUNT = ("precision", "density", "kid")
_FREE_OF_REFERENCE_COUNT = ("is", "kid")
_LIMIT = 1.96  # standard errors; chance exceeds it in one comparison of twenty
_FEW = 50
_NO_ERROR = "a report has no standard error of it; see its warnings"

Verdict = Literal["differs", "within noise", "not comparable", "unknown"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One score in two reports.

    Args:
        name: The score.
        a: Its value in the first report; at ``n`` samples of it, if the reports' counts differ.
        b: Its value in the second.
        se: Standard error of ``b - a``; None if one of the two is unknown.
        n_a: Samples of the first.
        n_b: Samples of the second.
        verdict: ``differs`` if the difference exceeds 1.96 standard errors, ``within noise`` if
            not, ``not comparable`` if the two depend on unequal numbers of images, ``unknown``
            without an error.
        reason: What the verdict rests on, and what can be concluded.
    """

    name: str
    a: float
    b: float
    se: float | None
    n_a: int
    n_b: int
    verdict: Verdict
    reason: str


def read_report(path: str | Path) -> dict[str, Any]:
    """Return a JSON report of ``genmetrics eval`` or ``fid``.

    Raises:
        BadInput: If the file is not one.
    """
    path = Path(path)
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        unreadable = "cannot be read" if path.exists() else "does not exist"
        found = "is not JSON" if isinstance(error, ValueError) else unreadable
        raise BadInput(
            f"Expected a JSON report; got {path}, which {found}. "
            "Write it with genmetrics eval --json FILE."
        ) from error
    if (
        not isinstance(report, dict)
        or report.get("schema") != SCHEMA
        or not {"metrics", "protocol", "extractor"} <= report.keys()
    ):
        raise BadInput(
            f"Expected a report of the schema {SCHEMA} in {path}; got another JSON file, or a "
            "report of another command. "
            "Write it with genmetrics eval --json FILE."
        )
    return report


def compare_reports(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Return the difference of every score that two reports share.

    Args:
        a: A report of :func:`read_report`.
        b: Another one.

    Raises:
        BadInput: If they were not made in the same way: protocol, network, weights or reference.
    """
    names = [name for name in a["metrics"] if name in b["metrics"]]
    for part in ("protocol", "extractor"):
        first, second = (_that_matters(report.get(part, {}), names) for report in (a, b))
        _require_same(part, first, second)
    if not names:
        raise BadInput(
            "Expected a score that both reports have; got none. Compute the same metrics."
        )
    same_draws = a.get("seed") == b.get("seed")
    return [
        _difference(name, a["metrics"][name], b["metrics"][name], same_draws=same_draws)
        for name in names
    ]


def _that_matters(part: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Return the constants that change one of these scores."""
    plain = {name.partition("_")[0] for name in names}
    return {
        key: value
        for key, value in part.items()
        if key not in ("metrics", "source")
        and (key not in _CONSTANTS_OF or plain & set(_CONSTANTS_OF[key]))
    }


def _require_same(name: str, a: Any, b: Any) -> None:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(set(a) | set(b)):
            _require_same(f"{name}.{key}", a.get(key), b.get(key))
    elif a != b:
        raise BadInput(
            f"Expected two reports made in the same way; {name} is {a} in one and {b} in the "
            "other. Score both with the same protocol."
        )


def reference_doubts(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return sentences on whether both reports judge other samples by one reference.

    Args:
        a: A report of :func:`read_report`.
        b: Another one.
    """
    doubts = []
    references, samples = (
        [each.get(part, {}) for each in (a, b)] for part in ("reference", "samples")
    )
    if _prints_differ(*references):
        paths = " and ".join(str(each.get("path")) for each in references)
        doubts.append(
            f"The references {paths} are other files, or were written anew. Unless they are the "
            "same images, no score can be compared."
        )
    if samples[0].get("fingerprint") is not None and not _prints_differ(*samples):
        doubts.append("Both reports are of the same samples: differences are not those of models.")
    return doubts


def _prints_differ(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    prints = {each.get("fingerprint") for each in (a, b)}
    return None not in prints and len(prints) > 1


def _difference(
    name: str, a: Mapping[str, Any], b: Mapping[str, Any], *, same_draws: bool
) -> Difference:
    """Compare one score; subsets of the reference are the same ones only if drawn by one seed."""
    n_a, n_b = a["n_samples"], b["n_samples"]
    obstacle = _obstacle(name, a, b)
    common = _equal_count(a, b) if obstacle and same_draws else None
    se_a, se_b = a.get("se"), b.get("se")
    se = None if se_a is None or se_b is None else math.hypot(se_a, se_b)
    if common is not None and se_a is not None and se_b is not None:
        first, second = (each["at_equal_count"]["value"] for each in (a, b))
        # Fewer samples have a larger error, by the root of their number.
        se = math.hypot(se_a * math.sqrt(n_a / common), se_b * math.sqrt(n_b / common))
        verdict, reason = _verdict(second - first, se)
        reason = f"at N = {common} of both, from subsets; {reason}"
        return Difference(name, first, second, se, n_a, n_b, verdict, reason)
    if obstacle:
        verdict, reason = "not comparable", obstacle
    elif se is None:
        verdict, reason = "unknown", _NO_ERROR
    else:
        verdict, reason = _verdict(b["value"] - a["value"], se)
        reason = _caveat(a, b) + reason
    return Difference(name, a["value"], b["value"], se, n_a, n_b, verdict, reason)


def _verdict(gap: float, se: float) -> tuple[Verdict, str]:
    ratio = f"{abs(gap) / se:.1f} standard errors" if se > 0 else "no error at all"
    if abs(gap) > _LIMIT * se:
        return "differs", ratio
    return "within noise", f"{ratio}; less than {_LIMIT * se:.3g} cannot be told at this N"


def _obstacle(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """Say which count the score depends on and is not the same."""
    plain = "inf" if name.endswith("_inf") else name.partition("_")[0]
    n_a, n_b = a["n_samples"], b["n_samples"]
    if a.get("n_ref") != b.get("n_ref") and plain not in _FREE_OF_REFERENCE_COUNT:
        return (
            f"{a.get('n_ref')} and {b.get('n_ref')} reference images, on which it depends; "
            "use one reference"
        )
    free = plain in (*_FREE_OF_SAMPLE_COUNT, "inf")
    chunk = a.get("chunk", math.inf)  # of fewer samples it is lower, also where the last one is
    whole_chunks = plain == "is" and min(n_a, n_b) >= chunk and n_a % chunk == n_b % chunk == 0
    if n_a == n_b or free or whole_chunks:
        return None
    return f"{n_a} and {n_b} samples, on which it depends; score both with --limit {min(n_a, n_b)}"


def _equal_count(a: Mapping[str, Any], b: Mapping[str, Any]) -> int | None:
    """Return the count at which both have a distance to one reference, besides their own."""
    counts = {(each.get("at_equal_count") or {}).get("n") for each in (a, b)}
    same_reference = a.get("n_ref") == b.get("n_ref")
    return counts.pop() if same_reference and len(counts) == 1 else None


def _caveat(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    if a.get("rank_deficient") or b.get("rank_deficient"):
        return "N below the dimensions, so mostly bias and a rough error; "
    if min(a["n_samples"], b["n_samples"]) < _FEW:
        return "few samples, so a rough error; "
    return ""
