"""Arrays of numbers in ``.npz`` files. Imports no torch."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from genmetrics.errors import BadInput, UsageError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy as np

__all__ = ["read_array", "read_labels"]

_LABEL_KEYS = ("labels", "label", "y")
_BESIDE = ("ids", "meta")  # what `genmetrics features` writes beside them


def read_array(path: Path, key: str | None, *, preferred: tuple[str, ...]) -> "np.ndarray":
    """Return the floating-point array of a file, one row or more per sample.

    Args:
        path: The file.
        key: Name of the array; None takes the first of ``preferred`` that there is, or else the
            main output of ``genmetrics features``, or else the only array that is not labels.
        preferred: Usual names.

    Raises:
        BadInput: If there is no such file, no such array, or the array is not of numbers.
        UsageError: If it is not clear which array is meant.
    """
    import numpy as np

    with _open(path) as arrays:
        key = _usual_or_only(arrays, preferred, path) if key is None else key
        array = _member(arrays, key, path)
    if not np.issubdtype(array.dtype, np.floating) or array.ndim < 2 or not array.size:
        raise BadInput(
            f"Expected floats with a row per sample in {key} of {path}; got {array.dtype} of shape "
            f"{array.shape}. Save latents or features as float32."
        )
    if not np.isfinite(array).all():
        raise BadInput(
            f"Expected finite numbers in {key} of {path}; got NaN or infinity. Check how it was "
            "made."
        )
    return array


def read_labels(path: Path, count: int) -> "np.ndarray | None":
    """Return the labels that are stored beside an array, as int64; None if there are none.

    Args:
        path: The file.
        count: Rows of the array.

    Raises:
        BadInput: If they are not ``count`` whole numbers.
    """
    import numpy as np

    with _open(path) as arrays:
        name = next((name for name in _LABEL_KEYS if name in arrays), None)
        if name is None:
            return None
        labels = _member(arrays, name, path)
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (count,):
        raise BadInput(
            f"Expected {count} whole numbers in {name} of {path}; got {labels.dtype} of shape "
            f"{labels.shape}. Save one label per row."
        )
    return labels.astype(np.int64)


def _open(path: Path) -> "AbstractContextManager[np.lib.npyio.NpzFile]":
    from genmetrics.images.zip_members import open_npz

    if not path.is_file():
        raise BadInput(f"Expected an .npz file; got {path}, which is none. Check the path.")
    return open_npz(path)


def _usual_or_only(arrays: "np.lib.npyio.NpzFile", preferred: tuple[str, ...], path: Path) -> str:
    for name in (*preferred, _main_output(arrays)):
        if name in arrays:
            return name
    others = [name for name in arrays if name not in (*_LABEL_KEYS, *_BESIDE)]
    if len(others) != 1:
        raise UsageError(
            f"Expected one array in {path}; got {', '.join(others) or 'none'}. Choose one by --key."
        )
    return others[0]


def _main_output(arrays: "np.lib.npyio.NpzFile") -> str:
    """Return what `genmetrics features` wrote of it; nothing for files of others."""
    from genmetrics.images.zip_members import TORN

    try:
        return str(json.loads(str(arrays["meta"]))["extractor"]["main_output"])
    except (*TORN, KeyError, TypeError, ValueError):
        return ""


def _member(arrays: "np.lib.npyio.NpzFile", key: str, path: Path) -> "np.ndarray":
    from genmetrics.images.zip_members import TORN

    if key not in arrays:
        raise BadInput(
            f"Expected an array {key} in {path}; got {', '.join(arrays) or 'none'}. "
            "Choose one of them by --key."
        )
    try:
        array: np.ndarray = arrays[key]
    except TORN as error:
        raise BadInput(
            f"Expected a readable array {key} in {path}; got '{error}'. Save it "
            "again, without objects."
        ) from error
    return array
