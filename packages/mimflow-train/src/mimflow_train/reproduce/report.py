"""The report of an experiment: the paper's numbers beside ours, as Markdown and as JSON."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mimflow_train.reproduce.design import Experiment
from mimflow_train.reproduce.outcome import Column, Outcome, Row, mean_and_spread, verdict
from mimflow_train.storage.files import written_whole

__all__ = ["QUICK_NOTE", "to_markdown", "write_report"]

QUICK_NOTE = (
    "**QUICK: a smoke test of a few steps, a few images and tiny networks. None of our numbers "
    "below means anything; do not quote them.**"
)


def write_report(
    folder: Path, experiment: Experiment, outcome: Outcome, made: Mapping[str, Any]
) -> str:
    """Write ``report.md`` and ``report.json``.

    In JSON a seed without a number has null, and an infinite number is ``"inf"`` or ``"-inf"``.

    Args:
        folder: Receives both; pictures are there already.
        experiment: What was to be shown.
        outcome: What came of it.
        made: How it was made: ``command``, ``scale``, ``quick``, ``seeds`` and so on; ``commit``,
            ``torch`` and ``steps`` are the runs', what begins with ``report_`` is the command's.

    Returns:
        The Markdown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = to_markdown(experiment, outcome, made)
    with written_whole(folder / "report.md") as draft:  # a path in the command may be no text
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")
    claims = [asdict(each) | {"found": verdict(each, outcome.rows)} for each in experiment.claims]
    plain = {
        "title": experiment.title,
        "columns": [asdict(each) for each in outcome.columns],
        "rows": [_plain(each) for each in outcome.rows],
        "claims": claims,
        "counts": outcome.counts,
        "notes": [*experiment.notes, *outcome.notes],
        "made": dict(made),
    }
    with written_whole(folder / "report.json") as draft:
        draft.write_text(json.dumps(plain, indent=2, allow_nan=False) + "\n")
    return text


def _plain(row: Row) -> dict[str, Any]:
    plain = asdict(row)
    plain["paper"] = dict(row.paper)
    plain["ours"] = {key: [_json(each) for each in values] for key, values in row.ours.items()}
    return plain


def _json(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def to_markdown(experiment: Experiment, outcome: Outcome, made: Mapping[str, Any]) -> str:
    """Return the report as Markdown.

    Args:
        experiment: What was to be shown.
        outcome: What came of it.
        made: How it was made.
    """
    parts = [f"# {experiment.title}", ""]
    if made["quick"]:
        parts += [QUICK_NOTE, ""]
    parts += [
        *_table(outcome),
        "",
        *_claims(experiment, outcome),
        outcome.counts[0].upper() + outcome.counts[1:] + ".",
        "",
    ]
    parts += [f"- {note}" for note in (*experiment.notes, *outcome.notes, *_samples(outcome))]
    parts += ["", *(f"![{name}]({name})" for name in outcome.pictures), ""]
    parts += ["Made by", "", "    " + str(made["command"]), ""]
    about = {key: value for key, value in made.items() if key not in ("command", "quick")}
    parts.append("; ".join(f"{_words(key)} {about[key]}" for key in about) + ".")
    return "\n".join(parts) + "\n"


def _words(key: str) -> str:
    return key.replace("_", " ")


def _samples(outcome: Outcome) -> Iterator[str]:
    """Yield where the samples lie."""
    for row in outcome.rows:
        if row.samples:
            files = ", ".join(f"`{each}`" for each in row.samples)
            yield f"Samples of `{row.label}`, in ADM's format, from the folder --out: {files}."


def _table(outcome: Outcome) -> Iterator[str]:
    """Yield the lines: the paper's columns, then ours, so that neither is taken for the other."""
    theirs = [each for each in outcome.columns if _has_paper(each, outcome.rows)]
    ours = [each for each in outcome.columns if _has_ours(each, outcome.rows)]
    head = [
        "",
        *(f"paper, ImageNet 256: {each.paper}" for each in theirs),
        *(f"ours: {each.ours}" for each in ours),
    ]
    yield _line(head)
    yield _line(["---"] + ["---:"] * (len(head) - 1))
    for row in outcome.rows:
        cells = [_paper(row, each) for each in theirs]
        yield _line([row.label, *cells, *(_ours(row, each) for each in ours)])
    reasons = [f"{row.label}: {row.why_not}" for row in outcome.rows if row.why_not]
    if reasons:
        yield ""
        yield f"Not run: {'; '.join(reasons)}."


def _has_paper(column: Column, rows: Sequence[Row]) -> bool:
    return any(column.key in row.paper for row in rows)


def _has_ours(column: Column, rows: Sequence[Row]) -> bool:
    return any(row.numbers(column.key) for row in rows)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _paper(row: Row, column: Column) -> str:
    value = row.paper.get(column.key, "")
    return value if isinstance(value, str) else f"{value:g}"


def _ours(row: Row, column: Column) -> str:
    values = row.numbers(column.key)
    if not values:
        return row.lost or ("not run" if row.why_not else "none")
    mean, spread = mean_and_spread(values)
    text = f"{mean:.{column.digits}f}"
    if spread is not None:
        text += f" +- {spread:.{column.digits}f}"
    return f"{text}; {row.lost}" if row.lost else text


def _claims(experiment: Experiment, outcome: Outcome) -> list[str]:
    if not experiment.claims:
        return []
    names = {each.key: each.ours for each in outcome.columns}
    lines = [
        f"- {claim.text} ({names.get(claim.metric, claim.metric)}, `{claim.better}` against "
        f"`{claim.worse}`): **{verdict(claim, outcome.rows)}**"
        for claim in experiment.claims
    ]
    return ["Does the direction of the paper's claims hold?", "", *lines, ""]
