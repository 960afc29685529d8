"""Features on disk, in shards that a killed run leaves whole and the next run finds. No torch."""

import hashlib
import json
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from jaxtyping import Shaped

from genmetrics.errors import UsageError

CACHE_VARIABLE = "GENMETRICS_CACHE"
FORMAT = 2


class FeatureCache:
    """The shards of one set of images under one network: a folder named by what they depend on.

    Nothing is ever looked up by a name that the user chose, so other images, weights or
    preprocessing are another folder. ``key.json`` in it says which.

    Args:
        folder: Where all caches are; made if need be.
        key: Everything that the features depend on, as plain values.

    Raises:
        UsageError: If the folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = FeatureCache(Path(folder), {"images": "a1b2"})
        ...     whole = {"features": np.ones((5, 3), np.float32)}
        ...     cache.save(range(0, 2), {"features": whole["features"][:2]})
        ...     cache.load(range(0, 2), whole)["features"].shape
        (2, 3)
    """

    def __init__(self, folder: Path, key: Mapping[str, object]) -> None:
        text = json.dumps({"format": FORMAT, **key}, sort_keys=True, indent=1)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:32]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(error) from error
        if not (self.folder / "key.json").exists():
            self._write("key.json", text.encode())

    def load(
        self, rows: range, whole: Mapping[str, Shaped[np.ndarray, "..."]]
    ) -> dict[str, Shaped[np.ndarray, "..."]] | None:
        """Return what is known of some images, or None if it must be computed.

        A damaged shard counts as missing, with a warning; its checksums are those of the format.

        Args:
            rows: Which images.
            whole: Arrays of all images, by name: what is stored has their dtype and shape.
        """
        file = self.folder / _shard_name(rows)
        if not file.exists():
            return None
        try:
            # Opened here, since np.load leaves the file of a torn archive open.
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                found = {name: archive[name] for name in whole}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            _warn(file, str(error))
            return None
        for name, array in whole.items():
            shape, dtype = found[name].shape, found[name].dtype
            if shape != (len(rows), *array.shape[1:]) or dtype != array.dtype:
                _warn(file, f"{name} is {dtype} {shape}")
                return None
        return found

    def save(self, rows: range, part: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
        """Write what is known of some images; a crash leaves all of the shard or nothing.

        Args:
            rows: Which images.
            part: Arrays of these images, by name.

        Raises:
            UsageError: If the folder cannot be written.
        """
        self._write(_shard_name(rows), part)

    def _write(self, name: str, content: bytes | Mapping[str, np.ndarray]) -> None:
        """Write a file under another name, wait until it is on the disk, then rename it."""
        unfinished = self.folder / f".{name}.{uuid4().hex}"
        try:
            with unfinished.open("xb") as stream:
                if isinstance(content, bytes):
                    stream.write(content)
                else:
                    arrays: dict[str, Any] = dict(content)
                    np.savez(stream, **arrays)
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(self.folder / name)
        except OSError as error:
            raise _unwritable(error) from error


def _shard_name(rows: range) -> str:
    return f"{rows.start:09d}-{rows.stop:09d}.npz"


def _warn(file: Path, reason: str) -> None:
    warnings.warn(
        f"The cached features in {file} are damaged ({reason}); computing them again.",
        stacklevel=3,
    )


def _unwritable(error: OSError) -> UsageError:
    return UsageError(
        f"Expected a writable folder for cached features; got {error}. Change --cache or "
        f"{CACHE_VARIABLE}."
    )
