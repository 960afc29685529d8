"""Frozen features with labels, as probes take them: rows, or rows of tokens to be pooled."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from genmetrics.checks import as_labels, as_tokens, described, require_label_each
from genmetrics.errors import BadInput, one_of, some
from genmetrics.images.zip_members import open_npz

Labelled: TypeAlias = "ProbeData | tuple[Any, Any]"  # features and labels, as ProbeData's
Pooling = Literal["mean", "max", "flatten", "first"]

LABEL_KEYS = ("labels", "y")
_NOT_FEATURES = ("ids", "meta")  # what `genmetrics features` writes beside them
_ROWS_AT_A_TIME = 1024
_LISTED = 10


@dataclass(frozen=True, slots=True)
class ProbeData:
    """Features of one set of images, and what the images show.

    Args:
        x: One row per image, or one row of tokens; an array becomes a tensor.
        y: Labels, any integers; an array or a list becomes a tensor.
        pool: What becomes of tokens: their ``mean`` or ``max``, all of them side by side
            (``flatten``), or the ``first`` (a class token). Rows without tokens stay as they are.
        classes: What every label is called; empty if it is not known.

    Raises:
        UsageError: If there is no such pooling.
        BadInput: If one is of another kind, there is not one label per row, or no row, or nothing
            in a row.

    Example:
        >>> tokens = torch.arange(12.0).reshape(2, 3, 2)
        >>> ProbeData(tokens, torch.tensor([0, 1])).rows().tolist()
        [[2.0, 3.0], [8.0, 9.0]]
    """

    x: Float[Tensor, "n d"] | Float[Tensor, "n t c"]
    y: Int64[Tensor, " n"]
    pool: Pooling = "mean"
    classes: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", as_tokens(self.x))  # it is frozen
        object.__setattr__(self, "y", as_labels(self.y))
        require_label_each(self.y, self.x)
        if self.x.numel() == 0:
            raise BadInput(f"Expected features; got the shape {tuple(self.x.shape)}. Add images.")
        one_of(get_args(Pooling), pool=self.pool)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def pooling(self) -> str:
        """How tokens were pooled; ``none`` if there are none."""
        return self.pool if self.x.ndim == 3 else "none"

    def rows(self) -> Float[Tensor, "n d"]:
        """Return one row per image, in the dtype of the features; means are taken in float64."""
        if self.x.ndim == 2:
            return self.x
        if self.pool == "flatten":
            return self.x.flatten(start_dim=1)
        if self.pool == "first":
            return self.x[:, 0]
        if self.pool == "max":
            return self.x.amax(dim=1)
        starts = range(0, len(self.x), _ROWS_AT_A_TIME)
        parts = (self.x[start : start + _ROWS_AT_A_TIME] for start in starts)
        return torch.cat([part.double().mean(dim=1).to(self.x.dtype) for part in parts])


def as_probe_data(data: object, name: str) -> ProbeData:
    """Return features with labels, where a pair of them may stand for both.

    Args:
        data: The features and their labels.
        name: How the message calls them.

    Raises:
        BadInput: If it is neither, or as :class:`ProbeData`.
    """
    if isinstance(data, ProbeData):
        return data
    if isinstance(data, tuple | list) and len(data) == 2:
        return ProbeData(*data)
    raise BadInput(
        f"Expected {name} as ProbeData(features, labels), or a pair of them; got "
        f"{described(data)}. Read files with load_probe_file."
    )


def labels_as_in(train: ProbeData, val: ProbeData) -> Int64[Tensor, " n"]:
    """Return the labels of ``val`` with the numbers that ``train`` gives to classes of that name.

    Labels are places among a set's folders, so a set that lacks a folder counts others. Without
    names on both sides labels stay as they are.

    Raises:
        BadInput: If a class of ``val`` has no namesake.

    Example:
        >>> train = ProbeData(torch.eye(3), torch.arange(3), classes=dict(enumerate("abc")))
        >>> val = ProbeData(torch.eye(2), torch.arange(2), classes=dict(enumerate("bc")))
        >>> labels_as_in(train, val)
        tensor([1, 2])
    """
    if not (train.classes and val.classes):
        return val.y
    number = {name: label for label, name in train.classes.items()}
    strangers = [name for name in val.classes.values() if name not in number]
    if strangers:
        named = (list(number), list(val.classes.values()), strangers)
        wanted, found, unknown = (some(names, _LISTED) for names in named)
        raise BadInput(
            f"Expected the classes of the training features, {wanted}; got {found}, where "
            f"{unknown} is unknown. Extract both from folders of the same names."
        )
    return torch.tensor(
        [number[val.classes[label]] for label in val.y.tolist()], device=val.y.device
    )


def load_probe_file(
    path: str | Path, keys: Sequence[str] | None = None, pool: Pooling = "mean"
) -> dict[str, ProbeData]:
    """Read features and labels from an ``.npz`` file.

    Args:
        path: A file with integer ``labels`` (or ``y``) and arrays of floats, ``(n, d)`` or
            ``(n, t, c)``.
        keys: Which arrays; None takes all but the labels, ``ids`` and ``meta``.
        pool: How tokens are pooled.

    Raises:
        UsageError: If there is no such pooling.
        BadInput: If something is missing or of the wrong kind; lists what there is.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"Expected an .npz file of features; got {path}, which is no file.")
    with open_npz(path) as archive:
        arrays = {key: archive[key] for key in _chosen(archive, keys, path)}
        listing = _listing(arrays)
        named = _class_names(archive)
    label_key = next(key for key in LABEL_KEYS if key in arrays)
    labels = arrays.pop(label_key)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise BadInput(f"Expected integers of shape (n,) as {label_key} in {path}; got {listing}.")
    y = torch.from_numpy(labels.astype(np.int64))
    if not named.keys() >= set(labels.tolist()):
        named = {}
    data = {}
    for key, array in arrays.items():
        if array.dtype not in (np.float16, np.float32, np.float64) or array.ndim not in (2, 3):
            raise BadInput(
                f"Expected floats of shape (n, d) or (n, t, c) as {key} in {path}; got {listing}. "
                "Choose arrays with --keys."
            )
        if len(array) != len(y) or array.size == 0:
            raise BadInput(
                f"Expected one row of {key} per label in {path}, and not none; got {listing}."
            )
        x = torch.from_numpy(array)
        data[key] = ProbeData(x.float() if array.dtype == np.float64 else x, y, pool, named)
    return data


def _class_names(archive: np.lib.npyio.NpzFile) -> dict[int, str]:
    """Return what `genmetrics features` wrote of them; nothing for files of others."""
    try:
        classes = json.loads(str(archive["meta"]))["source"]["classes"]
        return {int(label): str(name) for label, name in classes.items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _chosen(archive: np.lib.npyio.NpzFile, keys: Sequence[str] | None, path: Path) -> list[str]:
    """Return the keys of the features and that of the labels."""
    label_key = next((key for key in LABEL_KEYS if key in archive.files), None)
    if label_key is None:
        raise BadInput(
            f"Expected integers under the key labels or y in {path}; "
            f"got {_listing(archive) or 'no keys'}."
        )
    features = list(keys or ())
    if keys is None:
        features = [key for key in archive.files if key not in (label_key, *_NOT_FEATURES)]
    missing = [key for key in features if key not in archive.files or key == label_key]
    if missing or not features:
        wanted = ", ".join(missing) or "at least one array"
        raise BadInput(f"Expected features {wanted} in {path}; got {_listing(archive)}.")
    return [*features, label_key]


def _listing(arrays: "np.lib.npyio.NpzFile | dict[str, np.ndarray]") -> str:
    return ", ".join(f"{key} {a.dtype} {a.shape}" for key, a in arrays.items())
