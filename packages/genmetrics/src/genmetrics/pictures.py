"""Picture files made 8-bit RGB, with a record of what that changed. Imports no torch."""

import re
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from genmetrics.errors import BadInput

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_KINDS = {"1": "bilevel", "L": "grey", "LA": "grey", "P": "palette", "CMYK": "CMYK"}


class PictureLog:
    """What was noticed about each picture; safe to fill from several threads."""

    def __init__(self) -> None:
        self._sizes: dict[str, tuple[int, int]] = {}
        self._transparent: set[str] = set()
        self._jpeg: set[str] = set()
        self._kinds: dict[str, str] = {}

    def note(self, name: str, image: Image.Image) -> None:
        """Record a picture that was opened; a second time changes nothing."""
        self._sizes[name] = image.size
        if image.has_transparency_data:
            self._transparent.add(name)
        if image.format in ("JPEG", "MPO"):
            self._jpeg.add(name)
        if image.mode != "RGB" and image.mode != "RGBA":
            self._kinds[name] = _KINDS.get(image.mode, image.mode)

    def remarks(self, path: Path, n: int) -> list[str]:
        """Return a sentence for each thing noticed.

        Args:
            path: Where the pictures are from.
            n: How many there are, read or not.
        """
        sentences = []
        if self._transparent:
            sentences.append(
                f"{len(self._transparent)} of {n} images in {path} have transparency, "
                "which was dropped; flatten them on a background to choose what shows."
            )
        if self._kinds:
            kinds = Counter(self._kinds.values()).most_common()
            counts = ", ".join(f"{count} {kind}" for kind, count in kinds)
            sentences.append(
                f"{len(self._kinds)} of {n} images in {path} are not RGB and were converted: "
                f"{counts}."
            )
        if self._jpeg:
            sentences.append(
                f"{len(self._jpeg)} of {n} images in {path} are JPEG, whose loss counts as a "
                "difference to any set that has not suffered it; save samples as PNG."
            )
        sizes = Counter(self._sizes.values())
        if len(sizes) > 1:
            common = ", ".join(f"{count} of {w}x{h}" for (w, h), count in sizes.most_common(3))
            sentences.append(
                f"Images in {path} have {len(sizes)} sizes ({common}{', ...' * (len(sizes) > 3)}); "
                "each is resized by itself."
            )
        return sentences


def decode(stream: Path | BytesIO, name: str, log: PictureLog) -> UInt8[np.ndarray, "h w 3"]:
    """Return a picture as 8-bit RGB; transparency is dropped.

    Args:
        stream: A file, or its bytes.
        name: How messages call it.
        log: Where the conversions are noted.

    Raises:
        BadInput: If it cannot be decoded or has more than 8 bits; names the file.
    """
    try:
        with Image.open(stream) as image:
            if _is_wide(image):
                wide = image.mode if image.mode in _WIDE_MODES else f"16-bit {image.mode}"
                raise BadInput(
                    f"Expected 8 bits per channel; got mode {wide} in {name}. Convert it to 8 bits."
                )
            # By way of RGBA, since a palette with transparency warns otherwise.
            whole = image.convert("RGBA") if image.has_transparency_data else image
            pixels = np.array(whole.convert("RGB"))
            log.note(name, image)
            return pixels
    except BadInput:
        raise
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error
        raise BadInput(
            f"Expected an image in {name}; got {type(error).__name__}: {error}. "
            "Repair or remove the file."
        ) from error


def _is_wide(image: Image.Image) -> bool:
    """Say whether there are more than 8 bits, which Pillow cuts off silently for RGB."""
    if image.mode in _WIDE_MODES:
        return True
    for tile in getattr(image, "tile", ()):
        codec, _, _, layout = tile
        if codec == "ppm" and layout[1] > 255:
            return True
        if re.search(r"'(L|LA|RGB|RGBA|RGBX|CMYK);16", repr(layout)):
            return True
    return False
