"""Pictures decoded as RGB, and why one cannot be; imports no torch."""

import struct
import warnings
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

__all__ = ["UNDECODABLE", "load_rgb", "on_white", "reason"]

# Pillow's words on bad tags of JPEG and TIFF, by each process that reads them; ImageNet has some.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.(Tiff|Jpeg)ImagePlugin")

UNDECODABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)


def load_rgb(file: Path | BytesIO) -> Image.Image:
    """Read a picture as RGB, transparent parts on white.

    Args:
        file: Where it is, or its bytes.

    Raises:
        OSError: If it cannot be decoded to its end, or has more bits than RGB has.
    """
    with Image.open(file) as image:
        _require_narrow(image.mode)
        image.load()
        return on_white(image)


def _require_narrow(mode: str) -> None:
    """Refuse grey of 16 or 32 bits: a conversion to RGB would make all above 255 white."""
    if mode in {"I", "F"} or mode.startswith("I;"):
        bits = "16" if "16" in mode else "more than 8"
        raise OSError(f"{bits} bits a channel; save it with 8")


def reason(error: Exception) -> str:
    """Return why a picture could not be decoded."""
    # Pillow's own words name the object that held the bytes.
    return "no image" if isinstance(error, UnidentifiedImageError) else str(error)


def on_white(image: Image.Image) -> Image.Image:
    """Return a picture as RGB, transparent parts on white."""
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        ground = Image.new("RGBA", image.size, "white")
        ground.alpha_composite(image.convert("RGBA"))
        return ground.convert("RGB")
    return image.convert("RGB")
