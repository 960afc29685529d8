"""The square crop by which ADM's ImageNet references were made. Imports no torch."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def adm_center_crop(
    image: UInt8[np.ndarray, "h w 3"], size: int
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Return the centre of an image, scaled so that its short side is ``size``.

    While the short side is at least ``2 * size`` the image is halved by a box filter (odd sides
    rounded down), then it is scaled by a bicubic one and cut with offsets rounded down. A smaller
    image is enlarged.

    Args:
        image: An 8-bit RGB image.
        size: Side of the square, in pixels, at least 1.

    Example:
        >>> adm_center_crop(np.zeros((50, 23, 3), np.uint8), 8).shape
        (8, 8, 3)
    """
    return np.array(adm_crop_picture(Image.fromarray(image), size))


def adm_crop_picture(picture: Image.Image, size: int) -> Image.Image:
    """Return the centre of a picture, cropped as :func:`adm_center_crop` crops an array.

    Args:
        picture: Of 8 bits per channel, not a palette.
        size: Side of the square, in pixels, at least 1.

    Example:
        >>> adm_crop_picture(Image.new("RGB", (23, 50)), 8).size
        (8, 8)
    """
    while min(picture.size) >= 2 * size:
        width, height = picture.size
        picture = picture.resize((width // 2, height // 2), Image.Resampling.BOX)
    scale = size / min(picture.size)
    width, height = (round(side * scale) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    top, left = (height - size) // 2, (width - size) // 2
    return picture.crop((left, top, left + size, top + size))
