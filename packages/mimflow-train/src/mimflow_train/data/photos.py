"""Squares cut from the photographs that scikit-image carries; imports no torch."""

import importlib.resources
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from mimflow_train.errors import DataError

__all__ = ["ATTRIBUTION", "Cut", "cut_photos"]

_FILES = {
    "astronaut": "astronaut.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "galaxies": "hubble_deep_field.jpg",
    "rocket": "rocket.jpg",
    "tissue": "ihc.png",
}
_TRAIN_CUTS, _VAL_CUTS = 300, 40  # of each photograph
_TRAIN_SHARE = 0.75  # of its longer side; the rest is val's
_SMALLEST = 0.4  # side of a cut, of what fits its region

ATTRIBUTION = (
    "Images: squares cut from the photographs astronaut (NASA), chelsea (Stefan van der Walt), "
    "coffee (Rachel Michetti), hubble_deep_field (NASA), ihc and rocket (SpaceX), "
    "from the package scikit-image. All are CC0 or in the public domain, or without known "
    "restrictions (ihc), by the documentation of skimage.data.\n"
)


class Cut(NamedTuple):
    """One square.

    Attributes:
        split: ``train`` or ``val``.
        class_name: Its photograph.
        box: Left, top, right and bottom in the photograph, in pixels.
        picture: The square.
    """

    split: str
    class_name: str
    box: tuple[int, int, int, int]
    picture: Image.Image


def cut_photos(size: int) -> Iterator[Cut]:
    """Cut squares at random places; no held-out one shares a pixel with one to train on.

    Each photograph is a class. Three quarters of its longer side are for training, the rest is
    held out. The places are the same at every call.

    Args:
        size: Side of the squares in pixels, after resizing.

    Raises:
        DataError: If scikit-image is not installed, or comes without the photographs.
    """
    for number, (class_name, photo) in enumerate(_photos()):
        draw = np.random.default_rng(number)
        for split, region, count in zip(
            ("train", "val"), _regions(photo), (_TRAIN_CUTS, _VAL_CUTS), strict=True
        ):
            for _ in range(count):
                box = _random_square(region, draw)
                picture = photo.crop(box).resize((size, size), Image.Resampling.LANCZOS)
                yield Cut(split, class_name, box, picture)


def _photos() -> Iterator[tuple[str, Image.Image]]:
    try:
        folder = importlib.resources.files("skimage") / "data"
        for name, file in _FILES.items():
            with (folder / file).open("rb") as opened, Image.open(opened) as image:
                yield name, image.convert("RGB")
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise DataError(
            f"Expected the photographs of the package scikit-image; {error}. "
            "Install mimflow-train[demo]."
        ) from error


def _regions(photo: Image.Image) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """Cut a photograph in two across its longer side."""
    width, height = photo.size
    if width >= height:
        edge = int(_TRAIN_SHARE * width)
        return (0, 0, edge, height), (edge, 0, width, height)
    edge = int(_TRAIN_SHARE * height)
    return (0, 0, width, edge), (0, edge, width, height)


def _random_square(
    region: tuple[int, int, int, int], draw: np.random.Generator
) -> tuple[int, int, int, int]:
    left, top, right, bottom = region
    fits = min(right - left, bottom - top)
    side = int(draw.integers(int(_SMALLEST * fits), fits, endpoint=True))
    x = int(draw.integers(left, right - side, endpoint=True))
    y = int(draw.integers(top, bottom - side, endpoint=True))
    return x, y, x + side, y + side
