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
    picture = Image.fromarray(image)
    while min(picture.size) >= 2 * size:
        width, height = picture.size
        picture = picture.resize((width // 2, height // 2), Image.Resampling.BOX)
    scale = size / min(picture.size)
    width, height = (round(side * scale) for side in picture.size)
    pixels = np.array(picture.resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - size) // 2, (width - size) // 2
    return pixels[top : top + size, left : left + size]
