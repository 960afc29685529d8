"""Picture files made 8-bit RGB, with a record of what that changed. Imports no torch."""

import re
import warnings
from collections import Counter
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from genmetrics.errors import BadInput

# Of some of ImageNet's files, by each process that reads them; what it is about is not looked at.
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_WIDE_MODES = ("I", "F", *_SIXTEEN_BITS)
_KINDS = {"1": "bilevel", "L": "grey", "LA": "grey", "P": "palette", "CMYK": "CMYK"}
_LISTED_SIZES = 10


class PictureLog:
    """What was noticed about each picture; safe to fill from several threads."""

    def __init__(self) -> None:
        self._sizes: dict[str, tuple[int, int]] = {}
        self._transparent: set[str] = set()
        self._jpeg: set[str] = set()
        self._kinds: dict[str, str] = {}
        self._wide: set[str] = set()

    def note(self, name: str, image: Image.Image) -> None:
        """Record a picture that was opened; a second time changes nothing."""
        self._sizes[name] = image.size
        if image.has_transparency_data:
            self._transparent.add(name)
        if image.format in ("JPEG", "MPO"):
            self._jpeg.add(name)
        if _is_wide(image):
            self._wide.add(name)
        elif image.mode != "RGB" and image.mode != "RGBA":
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
        if self._wide:
            sentences.append(
                f"{len(self._wide)} of {n} images in {path} have 16 bits per channel, of which the "
                "upper 8 were kept."
            )
        if len(set(self._sizes.values())) > 1:
            sentences.append(
                f"Images in {path} have {sizes_in_words(self._sizes.values())}; "
                "each is resized by itself."
            )
        return sentences


def sizes_in_words(sizes: Iterable[tuple[int, int]]) -> str:
    """Return how many sizes there are, and how many images have each.

    Args:
        sizes: Width and height of each image.

    Example:
        >>> sizes_in_words([(5, 4), (2, 7), (5, 4)])
        '2 sizes (2 of 5x4, 1 of 2x7)'
    """
    counts = Counter(sizes)
    listed = [f"{count} of {w}x{h}" for (w, h), count in counts.most_common(_LISTED_SIZES)]
    more = ", ..." if len(counts) > _LISTED_SIZES else ""
    return f"{len(counts)} sizes ({', '.join(listed)}{more})"


def decode(
    stream: Path | BytesIO, name: str, log: PictureLog, *, allow_16bit: bool = False
) -> UInt8[np.ndarray, "h w 3"]:
    """Return a picture as 8-bit RGB; transparency is dropped.

    Args:
        stream: A file, or its bytes.
        name: How messages call it.
        log: Where the conversions are noted.
        allow_16bit: Whether to keep the upper 8 bits of 16, as Pillow does for colour.

    Raises:
        BadInput: If it cannot be decoded or has too many bits; names the file.
    """
    try:
        with Image.open(stream) as image:
            if _is_wide(image):
                _require_narrow(image, name, allow_16bit=allow_16bit)
            log.note(name, image)
            return _as_rgb(image)
    except BadInput:
        raise
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error
        raise _no_image(name, error) from error


def size_in_header(stream: Path | BytesIO, name: str) -> tuple[int, int]:
    """Return the width and height that a picture's header says; decodes no pixel.

    Raises:
        BadInput: If there is no such header; names the file.
    """
    try:
        with Image.open(stream) as image:
            return image.size
    except Exception as error:  # as above
        raise _no_image(name, error) from error


def _no_image(name: str, error: Exception) -> BadInput:
    return BadInput(
        f"Expected an image in {name}; got {type(error).__name__}: {error}. "
        "Repair or remove the file."
    )


def _as_rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode in _SIXTEEN_BITS:
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    # By way of RGBA, since a palette with transparency warns otherwise.
    whole = image.convert("RGBA") if image.has_transparency_data else image
    return np.array(whole.convert("RGB"))


def _require_narrow(image: Image.Image, name: str, *, allow_16bit: bool) -> None:
    """Raise unless all bits above the 8th may be dropped; whole numbers of 32 bits never may."""
    sixteen = image.mode not in ("I", "F")
    if sixteen and allow_16bit:
        return
    wide = image.mode if image.mode in _WIDE_MODES else f"16-bit {image.mode}"
    hint = ", or keep the upper 8 with --allow-16bit" if sixteen else ""
    raise BadInput(
        f"Expected 8 bits per channel; got mode {wide} in {name}. Convert it to 8 bits{hint}."
    )


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
