"""Files are written whole or not at all, and incomplete ones are skipped; imports no torch."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["read_json", "read_reports", "written_whole"]


def read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds; empty if there is none, it is torn, or holds no mapping."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def read_reports(run_dir: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a run's ``metrics.jsonl``."""
    path, reports = run_dir / "metrics.jsonl", []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            reports.append(json.loads(line))
        except ValueError:  # a crash tore it
            continue
    return reports


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Write a file under another name first, so that what has its name is whole.

    Args:
        path: The file; one that is there stays until the block ends, and if that fails.

    Yields:
        ``.NAME.draft`` beside it, which the block writes; it takes the file's place at the end.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        yield draft
        draft.replace(path)
    except BaseException:
        with suppress(OSError):  # or it would hide why
            draft.unlink()
        raise
