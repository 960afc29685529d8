"""Small files of a run, read as far as they are whole; imports no torch."""

import json
from pathlib import Path
from typing import Any

__all__ = ["read_json", "read_reports"]


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
