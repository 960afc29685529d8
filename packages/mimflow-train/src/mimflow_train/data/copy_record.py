"""What ``mimflow-data crop`` writes down of a copy, and whether it is whole; imports no torch."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from mimflow_train.errors import ConfigError, DataError
from mimflow_train.storage.files import read_json, written_whole

__all__ = ["begin_copy", "finish_copy", "require_whole"]

_RECORD = "crop.json"
_DRAFT = ".crop.json.draft"  # may be left of a process that was killed
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
        before = read_json(out / _RECORD)
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
    record = read_json(out / _RECORD)
    record.pop(_UNFINISHED, None)
    _write(out, record)


def require_whole(root: Path) -> None:
    """Refuse a copy, or ``train`` or ``val`` of one, that was stopped or is still being made.

    Raises:
        DataError: If the folder is one; says which command finishes it.
    """
    for folder in (root, root.parent):
        record = read_json(folder / _RECORD)
        if _UNFINISHED in record:
            how = {each: record.get(each) for each in ("size", "encoding", "quality")}
            how["format"] = how.pop("encoding")
            options = [f"--{option}={value}" for option, value in how.items()]
            command = ["mimflow-data", "crop", str(record[_UNFINISHED]), str(folder), *options]
            raise DataError(
                f"Expected a whole set of images; the copy {folder} is not finished. "
                f"Finish it with `{shlex.join(command)}`."
            )


def _write(folder: Path, record: Mapping[str, object]) -> None:
    with written_whole(folder / _RECORD) as draft:
        draft.write_text(json.dumps(record, indent=2) + "\n")
