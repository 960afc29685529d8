"""Images in memory, as a set like any other. Imports no torch."""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from genmetrics.images.arrays import channels_last
from genmetrics.images.contents import Contents, content_remarks

__all__ = ["HeldImages", "as_array", "held_images", "is_held", "is_tensor"]


class HeldImages:
    """Images in memory. They are not copied: leave them as they are until they have been judged.

    Args:
        images: Bytes, channels last; sizes may differ.
    """

    kind = "memory"
    path = Path("memory")  # in messages

    def __init__(self, images: Sequence[np.ndarray] | UInt8[np.ndarray, "n h w 3"]) -> None:
        self.images = images
        self.labels: np.ndarray | None = None
        self.contents: Contents | None = None

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return one image."""
        return np.ascontiguousarray(self.images[index])  # else a batch would lie as these do

    def select(self, indices: Sequence[int]) -> "HeldImages":
        """Return the images at these places only, in this order."""
        return HeldImages([self.images[index] for index in indices])

    def fingerprint(self) -> str:
        """Return a digest of sizes and pixels."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            digest.update(of_image(self.read(index)))
        return digest.hexdigest()

    def remarks(self) -> list[str]:
        """Say what is plain or repeated."""
        names = [str(index) for index in range(len(self))]
        return content_remarks(self.contents, names, self.path)


def of_image(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Return what the fingerprint of images in memory takes of each."""
    return repr(image.shape).encode() + image.tobytes()


def is_tensor(values: object) -> bool:
    """Say whether something is a tensor; while torch is not imported there is none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(values, torch.Tensor)


def is_held(images: object) -> bool:
    """Say whether something is an array or a tensor."""
    return isinstance(images, np.ndarray) or is_tensor(images)


def as_array(images: Any) -> np.ndarray:
    """Return images with channels last; arrays may be anything, as those that read them check.

    Args:
        images: An array ``(n, h, w, 3)`` or ``(n, 3, h, w)`` whose width is not 3, or a uint8
            tensor ``(n, 3, h, w)``.

    Raises:
        BadInput: If a tensor is anything else.
    """
    if not is_tensor(images):
        return channels_last(images)
    from genmetrics.checks import require_bytes

    require_bytes(images)
    array: np.ndarray = images.detach().cpu().movedim(1, -1).numpy()
    return array


def held_images(images: object) -> HeldImages:
    """Return an array or a tensor as images.

    Raises:
        BadInput: If they are not bytes ``(n, h, w, 3)`` or, of a tensor, ``(n, 3, h, w)``.

    Example:
        >>> held_images(np.zeros((2, 3, 5, 7), np.uint8)).read(1).shape
        (5, 7, 3)
    """
    array = as_array(images)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
        from genmetrics.checks import require_bytes

        require_bytes(images)
    return HeldImages(array)
