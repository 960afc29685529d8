"""Labelled images, and the way from pictures to tensors."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

__all__ = [
    "ChosenImages",
    "ImageSource",
    "LabelledImages",
    "MemoryImages",
    "Split",
    "as_tensor",
    "in_batches",
    "to_bytes",
    "to_unit",
]


@runtime_checkable
class ImageSource(Protocol):
    """Images of one size, by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 h w"]: ...


@dataclass(frozen=True)
class MemoryImages:
    """All images of a small set as one tensor."""

    pixels: UInt8[Tensor, "m 3 h w"]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 h w"]:
        return self.pixels[index]


@dataclass(frozen=True)
class ChosenImages:
    """Some images of a set, in an order of their own."""

    images: ImageSource
    places: Sequence[int]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 h w"]:
        return self.images[self.places[index]]


@dataclass(frozen=True)
class Split:
    """Images and their classes.

    Attributes:
        images: The pixels.
        labels: Class number of each image.
    """

    images: ImageSource
    labels: Int64[Tensor, " m"]

    def stack(self, indices: Sequence[int]) -> UInt8[Tensor, "b 3 h w"]:
        """Return the images at ``indices`` as one batch."""
        return torch.stack([self.images[index] for index in indices])


@dataclass(frozen=True)
class LabelledImages:
    """A data set: what is trained on, and what is kept for judging.

    Attributes:
        train: Training images.
        held_out: Images that training never sees.
        class_names: Name of each class number.
        attribution: Who made the images and under which licence; empty for a user's own.
    """

    train: Split
    held_out: Split
    class_names: tuple[str, ...]
    attribution: str = ""


def in_batches(images: ImageSource, size: int) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
    """Yield all images in their order, of which no more than a batch is in memory.

    Args:
        images: The set; read by several threads.
        size: Images of a batch; the last may have fewer.
    """
    with ThreadPoolExecutor() as pool:
        for first in range(0, len(images), size):
            places = range(first, min(first + size, len(images)))
            yield torch.stack([*pool.map(images.__getitem__, places)])


def as_tensor(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """Turn an RGB picture into a channels-first tensor."""
    return torch.from_numpy(np.array(image)).movedim(-1, 0).contiguous()


def to_unit(pixels: UInt8[Tensor, "b 3 h w"]) -> Tensor:
    """Map bytes to floats in [-1, 1]: 0 to -1, 255 to 1."""
    return pixels.float() / 127.5 - 1


def to_bytes(image: Float[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 h w"]:
    """Map images from [-1, 1] to bytes: clamp, scale, round to nearest.

    Example:
        >>> to_bytes(torch.tensor([-2.0, 0.0, 1.0]).reshape(1, 3, 1, 1)).flatten()
        tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return ((image.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
