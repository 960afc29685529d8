"""Keeps what a large folder holds, so that it is looked through once; imports no torch."""

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from mimflow_train.data.files import FolderLayout, ImageFiles
from mimflow_train.data.scan import stamp

__all__ = ["index_path", "read_index", "write_index"]

_FORMAT = 5  # raised when other files count
_LEAST_FILES = 10_000  # fewer are looked through in a moment
_SETTLED_NS = 2_000_000_000  # a folder may change twice within one tick of its clock
_COLUMNS = ("names", "labels", "sizes", "archive", "offsets")
_SPLITS = ("train", "held_out")


def _cache_folder() -> Path:
    """Return ``MIMFLOW_CACHE``, else the user's cache folder for this program."""
    given = os.environ.get("MIMFLOW_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mimflow"


def index_path(root: Path) -> Path:
    """Return where the index of a folder or tar is kept."""
    name = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=12).hexdigest()
    return _cache_folder() / "indexes" / f"{name}.npz"


def read_index(root: Path) -> FolderLayout | None:
    """Return a kept layout, or None if there is none or a folder or tar has changed since.

    A file that was added, removed or renamed changes the time of its folder. One that was written
    over does not; its size is then the earlier one's until the index is removed.
    """
    try:
        with index_path(root).open("rb") as file, np.load(file, allow_pickle=False) as kept:
            arrays = dict(kept)
        if arrays["format"] != _FORMAT or not _unchanged(arrays):
            return None
        train, held_out = (_files(root, arrays, split) for split in _SPLITS)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return FolderLayout(_texts(arrays["classes"]), train, held_out, str(arrays["remark"]))


def write_index(
    root: Path, layout: FolderLayout, sources: dict[Path, tuple[int, int]], began_ns: int
) -> None:
    """Keep a layout if it is large and none of its folders was changing.

    Args:
        root: The folder or tar.
        layout: What it holds.
        sources: Each folder and tar that was read, with its stamp.
        began_ns: When reading began.
    """
    newest = max(changed for changed, _ in sources.values())
    if len(layout.train) + len(layout.held_out) < _LEAST_FILES or newest > began_ns - _SETTLED_NS:
        return
    arrays: dict[str, Any] = {
        "format": np.array(_FORMAT),
        "classes": _bytes(layout.class_names),
        "remark": np.array(layout.remark),
        "archives": _bytes(map(str, layout.train.archives)),
        "sources": _bytes(map(str, sources)),
        "stamps": np.array(list(sources.values()), dtype=np.int64),
    }
    for split in _SPLITS:
        files = getattr(layout, split)
        arrays |= {f"{split}_{column}": getattr(files, column) for column in _COLUMNS}
    path = index_path(root)
    draft = path.with_suffix(f".draft-{os.getpid()}")
    # The index only saves time: nothing is lost where it cannot be written.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            np.savez(file, **arrays)
        draft.replace(path)
    with contextlib.suppress(OSError):
        draft.unlink(missing_ok=True)


def _unchanged(arrays: dict[str, np.ndarray]) -> bool:
    paths = _texts(arrays["sources"])
    return all(
        stamp(Path(path)) == tuple(before)
        for path, before in zip(paths, arrays["stamps"].tolist(), strict=True)
    )


def _files(root: Path, arrays: dict[str, np.ndarray], split: str) -> ImageFiles:
    archives = tuple(map(Path, _texts(arrays["archives"])))
    return ImageFiles(root, archives, *(arrays[f"{split}_{column}"] for column in _COLUMNS))


def _bytes(texts: Iterable[str]) -> Shaped[np.ndarray, " m"]:
    return np.array([os.fsencode(each) for each in texts], dtype=np.bytes_)


def _texts(array: Shaped[np.ndarray, " m"]) -> tuple[str, ...]:
    return tuple(os.fsdecode(each) for each in array.tolist())
