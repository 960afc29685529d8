"""What ``mimflow-data crop`` writes down of a copy, and whether it is whole; imports no torch."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mimflow_train.errors import ConfigError, DataError

__all__ = ["begin_copy", "finish_copy", "require_whole"]

_RECORD, _DRAFT = "crop.json", ".crop.json.draft"
_UNFINISHED = "unfinished_copy_of"  # in the record until all images are there


def begin_copy(out: Path, source: Path, record: Mapping[str, object]) -> None:
    """Write down what a folder is to hold, or check that it is that, and that it is unfinished.

    Args:
        out: The folder, new or of an earlier call.
        source: Where the images are.
        record: Which they are and how they are cropped.

    Raises:
        ConfigError: If the folder holds something else.
    """
    if (out / _RECORD).exists():
        before = _read(out)
        before.pop(_UNFINISHED, None)
        if before != record:
            raise ConfigError(
                f"Expected the images and options that {out} was begun with; {_RECORD} in it "
                "says others. Name a new folder, or give the same ones."
            )
    elif out.exists() and any(each.name != _DRAFT for each in out.iterdir()):
        raise ConfigError(
            f"Expected a new folder, or one that this command began; {out} holds something else. "
            "Name another."
        )
    out.mkdir(parents=True, exist_ok=True)
    _write(out, {**record, _UNFINISHED: str(source)})


def finish_copy(out: Path) -> None:
    """Write down that all images are there."""
    record = _read(out)
    record.pop(_UNFINISHED, None)
    _write(out, record)


def require_whole(root: Path) -> None:
    """Refuse a copy, or ``train`` or ``val`` of one, that was stopped or is still being made.

    Raises:
        DataError: If the folder is one; says which command finishes it.
    """
    for folder in (root, root.parent):
        record = _read(folder)
        if _UNFINISHED in record:
            how = {each: record.get(each) for each in ("size", "encoding", "quality")}
            how["format"] = how.pop("encoding")
            options = [f"--{option}={value}" for option, value in how.items()]
            command = ["mimflow-data", "crop", str(record[_UNFINISHED]), str(folder), *options]
            raise DataError(
                f"Expected a whole set of images; the copy {folder} is not finished. "
                f"Finish it with `{shlex.join(command)}`."
            )


def _read(folder: Path) -> dict[str, Any]:
    """Return the record of a folder; empty where there is none, or another's file of its name."""
    try:
        record = json.loads((folder / _RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write(folder: Path, record: Mapping[str, object]) -> None:
    """Replace the record at once, so that it is never torn."""
    draft = folder / _DRAFT
    draft.write_text(json.dumps(record, indent=2) + "\n")
    draft.replace(folder / _RECORD)
