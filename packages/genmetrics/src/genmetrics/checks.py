"""What people pass to the functions: images as bytes, features as rows of floats."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Integer, UInt8
from torch import Tensor

from genmetrics.errors import BadInput, NumericalFailure, some
from genmetrics.images.sources import ImageSource

__all__ = [
    "HeldBytes",
    "Images",
    "Labels",
    "OtherRows",
    "Rows",
    "as_features",
    "as_labels",
    "as_tokens",
    "as_two_sets",
    "described",
    "require_bytes",
    "require_finite",
    "require_label_each",
    "require_pairs",
]

Rows = Float[Tensor, "n d"] | Float[np.ndarray, "n d"]
HeldBytes = UInt8[Tensor, "_ 3 _ _"] | UInt8[np.ndarray, "_ _ _ 3"] | UInt8[np.ndarray, "_ 3 _ _"]
Images = ImageSource | str | Path | HeldBytes
Labels = (
    Integer[Tensor, " m"]
    | Integer[np.ndarray, " m"]
    | Bool[Tensor, " m"]
    | Bool[np.ndarray, " m"]
    | Sequence[int]
)
OtherRows = Float[Tensor, "m d"] | Float[np.ndarray, "m d"]


def require_bytes(images: object) -> None:
    """Raise BadInput unless images are a uint8 tensor ``(b, 3, h, w)``; says how to make it one.

    Example:
        >>> try:
        ...     require_bytes(np.zeros((2, 8, 9, 3), np.uint8))
        ... except BadInput as error:
        ...     print(error)
        Expected images as a uint8 tensor (b, 3, h, w); got a NumPy array, uint8 (2, 8, 9, 3). \
Pass torch.from_numpy(images).movedim(-1, 1).
    """
    if (
        isinstance(images, Tensor)
        and images.dtype == torch.uint8
        and images.ndim == 4
        and images.shape[1] == 3
    ):
        return
    raise BadInput(
        f"Expected images as a uint8 tensor (b, 3, h, w); got {described(images)}. "
        f"Pass {_as_bytes(images)}."
    )


def require_pairs(real: object, recon: object) -> None:
    """Raise BadInput unless both are tensors ``(b, c, h, w)`` of one shape.

    Example:
        >>> try:
        ...     require_pairs(torch.zeros(4, 3, 8, 9), torch.zeros(1, 3, 8, 9))
        ... except BadInput as error:
        ...     print(error)
        Expected a reconstruction for each image, of its size; got (4, 3, 8, 9) and \
(1, 3, 8, 9). Pair them one to one.
    """
    shapes = []
    for images in (real, recon):
        if not isinstance(images, Tensor) or images.ndim != 4:
            lone = isinstance(images, Tensor) and images.ndim == 3
            made = "torch.from_numpy(images)" if isinstance(images, np.ndarray) else ""
            raise BadInput(
                f"Expected images as a tensor (b, c, h, w); got {described(images)}. "
                f"Pass {made or ('images[None]' if lone else 'one such tensor')}."
            )
        shapes.append(tuple(images.shape))
    if shapes[0] != shapes[1]:
        raise BadInput(
            f"Expected a reconstruction for each image, of its size; got {shapes[0]} and "
            f"{shapes[1]}. Pair them one to one."
        )


def as_features(features: object, name: str = "features") -> Float[Tensor, "n d"]:
    """Return rows of floats as a tensor without gradient, which shares memory if it can.

    Args:
        features: A tensor or NumPy array ``(n, d)``.
        name: How the message calls them.

    Raises:
        BadInput: If they are of another kind.
    """
    return _floats(features, name, {2: "(n, d)"})


def as_tokens(features: object) -> Float[Tensor, "n ..."]:
    """Return rows of floats, or rows of tokens, as :func:`as_features` does.

    Args:
        features: A tensor or NumPy array ``(n, d)`` or ``(n, t, c)``.

    Raises:
        BadInput: If they are of another kind.
    """
    return _floats(features, "features", {2: "(n, d)", 3: "(n, t, c)"})


def as_labels(labels: object) -> Int64[Tensor, " n"]:
    """Return labels as a tensor.

    Args:
        labels: Whole numbers, a tensor, a NumPy array or a list ``(n,)``.

    Raises:
        BadInput: If they are of another kind.

    Example:
        >>> as_labels([3, 1, 3])
        tensor([3, 1, 3])
    """
    found = labels
    if isinstance(labels, list | tuple):
        with suppress(ValueError):  # of lists of unequal length
            found = np.asarray(labels)
    if isinstance(found, np.ndarray) and found.dtype.kind in "biu":
        found = torch.from_numpy(found.astype(np.int64))
    whole = isinstance(found, Tensor) and not (found.is_floating_point() or found.is_complex())
    if not isinstance(found, Tensor) or not whole or found.ndim != 1:
        raise BadInput(
            f"Expected labels as whole numbers (n,); got {described(labels)}. Pass one per row."
        )
    return found.long()


def require_label_each(labels: Tensor, rows: Tensor) -> None:
    """Raise BadInput unless there are as many labels as rows."""
    if len(labels) != len(rows):
        raise BadInput(
            f"Expected one label per row; got {len(labels)} labels for {len(rows)} rows."
        )


def require_finite(features: Float[Tensor, "n d"], name: str) -> None:
    """Raise NumericalFailure, naming the first rows, unless every feature is a finite number."""
    refuse_rows(not_finite(features), len(features), name)


def not_finite(features: Float[Tensor, "n d"]) -> list[int]:
    """Return the rows in which a feature is NaN or infinite."""
    bad: list[int] = (~torch.isfinite(features)).any(dim=1).nonzero().flatten().tolist()
    return bad


def refuse_rows(bad: list[int], n: int, name: str) -> None:
    """Raise NumericalFailure, naming the first, if there are rows that are not finite."""
    if bad:
        raise NumericalFailure(
            f"Expected finite {name}; got NaN or infinity in {len(bad)} of {n} rows "
            f"({some(bad, 5)}). Check these images and the network's weights."
        )


def _floats(features: object, name: str, shapes: Mapping[int, str]) -> Tensor:
    """Return a tensor of one of the shapes, which are by the number of their axes."""
    if isinstance(features, np.ndarray) and features.dtype in (np.float16, np.float32, np.float64):
        features = torch.from_numpy(np.require(features, requirements=("C", "W")))
    floats = isinstance(features, Tensor) and features.is_floating_point()
    if not isinstance(features, Tensor) or not floats or features.ndim not in shapes:
        raise BadInput(
            f"Expected {name} as a tensor or array of floats {' or '.join(shapes.values())}; got "
            f"{described(features)}. Pass one row per image."
        )
    # Scores do not depend on how rows lie in memory, and give their network no gradient.
    return features.detach().contiguous()


def as_two_sets(
    x: object, y: object, names: tuple[str, str] = ("first", "second")
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
    """Return two sets of features as tensors.

    Args:
        x: A tensor or NumPy array ``(n, d)``.
        y: Another one.
        names: How messages call the sets.

    Raises:
        BadInput: If one is of another kind, or they have unequal widths.
    """
    a, b = (
        as_features(each, f"features of the {name} set")
        for each, name in zip((x, y), names, strict=True)
    )
    if a.shape[1] != b.shape[1]:
        raise BadInput(
            f"Expected two sets of features of one dimension; got {a.shape[1]} and {b.shape[1]}. "
            "Use one extractor and output for both."
        )
    return a, b


def described(value: object) -> str:
    """Return the kind of a value, and the dtype and shape of a tensor or array."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"a NumPy array, {value.dtype} {value.shape}"
    return f"a {type(value).__name__}"


def _as_bytes(images: object) -> str:
    """Return the expression that makes something a batch of bytes."""
    if not isinstance(images, Tensor | np.ndarray):
        return "one such tensor"
    made = "images" if isinstance(images, Tensor) else "torch.from_numpy(images)"
    shape = tuple(images.shape)
    if len(shape) == 3:
        made, shape = f"{made}[None]", (1, *shape)
    if len(shape) != 4:
        return "one such tensor"
    if shape[1] not in (1, 3) and shape[3] in (1, 3):
        made, shape = f"{made}.movedim(-1, 1)", (shape[0], shape[3], *shape[1:3])
    if shape[1] == 1:
        made, shape = f"{made}.expand(-1, 3, -1, -1)", (shape[0], 3, *shape[2:])
    if shape[1] != 3:
        return "images of three channels"
    kind = str(images.dtype).removeprefix("torch.")
    if "float" in kind:
        return f"(255 * {made}).round().clamp(0, 255).to(torch.uint8) if values are in [0, 1]"
    return made if kind == "uint8" else f"{made}.to(torch.uint8) if values are in [0, 255]"
