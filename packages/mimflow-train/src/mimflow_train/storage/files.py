"""Files are written whole or not at all, and incomplete ones are skipped; imports no torch."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["read_json", "read_reports", "renamed_whole", "to_disk", "written_whole"]

_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}  # of a folder, on some file systems


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
    text = path.read_text(errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        with suppress(ValueError):  # a crash tore it
            if isinstance(report := json.loads(line), dict):
                reports.append(report)
    return reports


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Write a file under another name first, so that what has its name is whole.

    That holds after a power cut as well, once the block has ended.

    Args:
        path: The file; one that is there stays until the block ends, and if that fails.

    Yields:
        ``.NAME.draft`` beside it, which the block writes; it takes the file's place at the end.
    """
    with renamed_whole(path) as draft:
        yield draft
        to_disk(draft)
    with suppress(OSError):  # the name may come later
        to_disk(path.parent)


@contextmanager
def renamed_whole(path: Path) -> Iterator[Path]:
    """Write as :func:`written_whole`, not waiting for the disk: for files by the thousand.

    Args:
        path: The file, which a power cut may leave empty.

    Yields:
        ``.NAME.draft`` beside it.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        yield draft
        draft.replace(path)
    except BaseException:
        with suppress(OSError):  # or it would hide why
            draft.unlink()
        raise


def to_disk(path: Path) -> None:
    """Make sure that a file, or the list of a folder's files, outlives a power cut.

    Raises:
        OSError: If it may not; not where a file system has no way to do that for a folder.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
