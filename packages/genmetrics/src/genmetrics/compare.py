"""Two reports side by side: is the difference larger than the noise? Imports no torch."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genmetrics.errors import BadInput

__all__ = ["Difference", "compare_reports", "read_report"]

_CONSTANTS_OF = {  # which scores a constant changes
    "neighbours": ("precision", "recall", "density", "coverage"),
    "pr_precision": ("precision", "recall", "density", "coverage"),
    "is_chunk": ("is",),
    "kid_subsets": ("kid",),
    "kid_subset_size": ("kid",),
    "cmmd_sigma": ("cmmd",),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One score in two reports.

    Args:
        name: The score.
        a: Its value in the first report.
        b: Its value in the second.
        se: Standard error of ``b - a``; None if one of the two is unknown.
        n_a: Samples of the first.
        n_b: Samples of the second.
    """

    name: str
    a: float
    b: float
    se: float | None
    n_a: int
    n_b: int

    @property
    def verdict(self) -> str:
        """Whether the difference can be trusted: it exceeds 1.96 standard errors, at equal N."""
        if self.n_a != self.n_b:
            return "other N: not comparable"
        if self.se is None:
            return "no standard error"
        return "differs" if abs(self.b - self.a) > 1.96 * self.se else "within noise"


def read_report(path: Path) -> dict[str, Any]:
    """Return a JSON report of ``genmetrics eval`` or ``fid``.

    Raises:
        BadInput: If the file is not one.
    """
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(
            f"Expected a JSON report in {path}; got {error}. Write it with --json."
        ) from error
    if (
        not isinstance(report, dict)
        or report.get("schema") != "genmetrics/1"
        or "metrics" not in report
    ):
        raise BadInput(
            f"Expected a report of the schema genmetrics/1 in {path}; got another JSON file. "
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
    return [_difference(name, a["metrics"][name], b["metrics"][name]) for name in names]


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


def _difference(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Difference:
    se = None
    if a.get("se") is not None and b.get("se") is not None:
        se = math.hypot(a["se"], b["se"])
    return Difference(name, a["value"], b["value"], se, a["n_samples"], b["n_samples"])
