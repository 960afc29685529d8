"""Images stored as floats, read as the bytes that they stand for. Imports no torch."""

import math
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from genmetrics.errors import BadInput, UsageError

__all__ = ["FloatImages", "FloatRange", "check_float_range"]

FloatRange = tuple[float, float]
_LOOKED_AT = 64  # images, of a file that may be larger than the memory


def check_float_range(low: float, high: float) -> FloatRange:
    """Return the values of black and white.

    Raises:
        UsageError: If they are not finite or not in this order.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(
            f"Expected a float range of black, then white, both finite; got {low:g},{high:g}. "
            "Usual are 0,1 and -1,1."
        )
    return low, high


class FloatImages:
    """Rows of a float array, each rounded to bytes when it is asked for.

    Args:
        path: The file it is from, for messages.
        images: Channels last; may be a memory map.
        float_range: Values of black and white.

    Example:
        >>> images = np.array([-1, 0.1, 1]).reshape(1, 1, 1, 3)
        >>> FloatImages(Path("x.npz"), images, (-1.0, 1.0))[0].tolist()
        [[[0, 140, 255]]]
    """

    def __init__(
        self, path: Path, images: Float[np.ndarray, "n h w 3"], float_range: FloatRange
    ) -> None:
        self.path = path
        self.images = images
        self.float_range = float_range

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return one image.

        Raises:
            BadInput: If a value is not finite or does not round to one of the 256 levels.
        """
        low, high = self.float_range
        image = np.asarray(self.images[row], np.float64)
        levels = np.rint((image - low) * (255 / (high - low)))
        bad = ~((levels >= 0) & (levels <= 255))  # NaN fails both
        if bad.any():
            advice = "Clip them, or correct --float-range."
            if not np.isfinite(image).all():  # whose clipping keeps NaN, and hides infinity
                bad = ~np.isfinite(image)
                advice = "Find what made it, and make the images again."
            raise BadInput(
                f"Expected values from {low:g} to {high:g} in arr_0 of {self.path}; "
                f"got {image[bad][0]:g} in image {row}. {advice}"
            )
        return levels.astype(np.uint8)

    def remarks(self) -> list[str]:
        """Return a sentence if images, taken at even distances, fit 0,1 in a much wider range."""
        low, high = self.float_range
        count = min(len(self), _LOOKED_AT)
        rows = np.linspace(0, len(self) - 1, count).astype(int).tolist()
        if high - low < 2 or not all(_fits(self.images[row]) for row in rows):
            return []
        return [
            f"All values of the {count} images looked at in arr_0 of {self.path} are from 0 to 1, "
            f"though black is {low:g} and white {high:g}. If 0 is black, read them with "
            "--float-range 0,1 (float_range in Python)."
        ]


def _fits(image: np.ndarray) -> bool:
    return bool(image.min() >= 0 and image.max() <= 1)
