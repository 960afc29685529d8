"""What files hold, and which of them commands may write over. Imports no torch."""

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


def require_report(target: str | None) -> None:
    """Raise UsageError if the file of ``--json`` cannot be written without loss."""
    if target is None or target == "-":
        return
    path = Path(target)
    require_parent(path, "--json")
    if path.is_dir():
        raise UsageError(
            f"Expected a writable --json file; got the folder {path}. Name a file in it."
        )
    if path.is_file() and _first_byte(path) not in (b"", b"{"):
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
    for each in inputs:
        if each.exists() and path.samefile(each):
            raise UsageError(
                f"Expected {flag} to be another file than what is read; got {path} as both. "
                "Name another."
            )
    found = kind_of(path)
    if found != kind:
        raise UsageError(
            f"Expected {flag} to be new, or {kind} to replace; got {path}, which holds {found}. "
            "Name another file."
        )


def _first_byte(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1)
    except OSError:
        return b""


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
