"""What files hold, and which of them commands may write over. Imports no torch."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

from genmetrics.commands.arguments import require_parent
from genmetrics.errors import UsageError

__all__ = ["OTHER_STATISTICS", "holds_statistics", "kind_of", "require_report", "require_target"]

OTHER_STATISTICS = "statistics of another tool"

# The arrays that tell them apart, of which the first found decides.
_KINDS = (
    ("arr_0", "images"),
    ("genmetrics", "statistics"),
    ("mu", OTHER_STATISTICS),
    ("ids", "features"),
)


def require_report(target: str | None, inputs: Sequence[Path] = ()) -> None:
    """Raise UsageError if the file of ``--json`` cannot be written without loss.

    Args:
        target: The file; None or ``-`` writes none.
        inputs: Reports that are read, which may not be replaced.
    """
    if target is None or target == "-":
        return
    path = Path(target)
    require_parent(path, "--json")
    if path.is_dir():
        raise UsageError(
            f"Expected a writable --json file; got the folder {path}. Name a file in it."
        )
    _require_not_read(path, "--json", inputs)
    if path.is_file() and not _is_report(path):
        raise UsageError(
            f"Expected --json to be new, or a report to replace; got {path}, which holds something "
            "else. Name another file."
        )


def require_target(path: Path, flag: str, kind: str, inputs: Sequence[Path]) -> None:
    """Raise UsageError unless a file can be written there without loss.

    Args:
        path: The ``.npz`` to write.
        flag: How messages call it.
        kind: What will be in it; a file of this kind may be replaced.
        inputs: What is read, which may not be.
    """
    require_parent(path, flag)
    if path.suffix.lower() != ".npz":
        raise UsageError(f"Expected {flag} to end in .npz; got {path}. Rename it.")
    if not path.exists():
        return
    _require_not_read(path, flag, inputs)
    found = kind_of(path)
    if found != kind:
        raise UsageError(
            f"Expected {flag} to be new, or {kind} to replace; got {path}, which holds {found}. "
            "Name another file."
        )


def _require_not_read(path: Path, flag: str, inputs: Sequence[Path]) -> None:
    for each in inputs:
        if path.exists() and each.exists() and path.samefile(each):
            raise UsageError(
                f"Expected {flag} to be another file than what is read; got {path} as both. "
                "Name another."
            )


def _is_report(path: Path) -> bool:
    """Say whether a file is empty, or JSON of a command of ours, which names itself in it."""
    try:
        if path.stat().st_size == 0:
            return True
        return bool(json.loads(path.read_bytes())["command"][0] == "genmetrics")
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def holds_statistics(path: Path) -> bool:
    """Say whether a file is of statistics and has no images."""
    if path.suffix.lower() in (".pt", ".pth"):
        return path.is_file()
    return kind_of(path) in ("statistics", OTHER_STATISTICS)


def kind_of(path: Path) -> str:
    """Return what a file holds, by the names of its arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            keys = {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return "something else"
    return next((kind for key, kind in _KINDS if key in keys), "other arrays")
