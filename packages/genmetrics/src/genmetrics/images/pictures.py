"""Picture files made 8-bit RGB, with a note of what that changed. Imports no torch."""

import os
import re
import struct
import warnings
from collections import Counter
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from genmetrics.errors import BadInput

# Pillow's words on bad tags of JPEG and TIFF, by each process that reads them; ImageNet has some.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.(Tiff|Jpeg)ImagePlugin")

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_WIDE_MODES = ("I", "F", *_SIXTEEN_BITS)
_KINDS = {"1": "bilevel", "L": "grey", "LA": "grey", "P": "palette", "CMYK": "CMYK"}
_LISTED_SIZES = 10


NOTICED = np.dtype(
    [
        ("width", "<i4"),
        ("height", "<i4"),
        ("kind", "S8"),
        ("transparent", "?"),
        ("lossy", "?"),
        ("wide", "?"),
    ]
)


class Noticed(NamedTuple):
    """What a picture was before it was made 8-bit RGB, in the order of ``NOTICED``.

    Args:
        width: In pixels; 0 stands for a picture that was not read.
        height: In pixels.
        kind: What was converted, such as ``grey``; empty for RGB.
        transparent: Whether transparency was dropped.
        lossy: Whether it is a JPEG or a WebP that is compressed with loss.
        wide: Whether it has more than 8 bits.
    """

    width: int
    height: int
    kind: str
    transparent: bool
    lossy: bool
    wide: bool

    @classmethod
    def of(cls, image: Image.Image) -> "Noticed":
        """Look at a picture that was opened."""
        wide = _is_wide(image)
        rgb = wide or image.mode in ("RGB", "RGBA")
        return cls(
            *image.size,
            kind="" if rgb else _KINDS.get(image.mode, image.mode),
            transparent=image.has_transparency_data,
            lossy=image.format in ("JPEG", "MPO") or _is_lossy_webp(image),
            wide=wide,
        )


def picture_remarks(noticed: Shaped[np.ndarray, " n"], path: Path) -> list[str]:
    """Return a sentence for each thing that was noticed.

    Args:
        noticed: Of all pictures, of dtype ``NOTICED``; zeros for those that were not read.
        path: Where the pictures are from.
    """
    sentences = []
    n = len(noticed)
    transparent, lossy, wide = (
        int(noticed[name].sum()) for name in ("transparent", "lossy", "wide")
    )
    kinds = Counter(kind.decode() for kind in noticed["kind"].tolist() if kind)
    sizes = [size for size in noticed[["width", "height"]].tolist() if any(size)]
    if transparent:
        sentences.append(
            f"{transparent} of {n} images in {path} have transparency, "
            "which was dropped; flatten them on a background to choose what shows."
        )
    if kinds:
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        sentences.append(
            f"{kinds.total()} of {n} images in {path} are not RGB and were converted: {counts}."
        )
    if lossy:
        sentences.append(
            f"{lossy} of {n} images in {path} are JPEG or lossy WebP, whose loss counts as a "
            "difference to any set that has not suffered it; save samples as PNG."
        )
    if wide:
        sentences.append(
            f"{wide} of {n} images in {path} have 16 bits per channel, of which the "
            "upper 8 were kept."
        )
    if len(set(sizes)) > 1:
        sentences.append(
            f"Images in {path} have {sizes_in_words(sizes)}; each is resized by itself."
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
    stream: Path | BytesIO, name: str, *, allow_16bit: bool = False
) -> tuple[UInt8[np.ndarray, "h w 3"], Noticed]:
    """Return a picture as 8-bit RGB, transparency being dropped, and what it was before.

    Args:
        stream: A file, or its bytes.
        name: How messages call it.
        allow_16bit: Whether to keep the upper 8 bits of 16, as Pillow does for colour.

    Raises:
        BadInput: If it cannot be decoded or has too many bits; names the file.
    """
    try:
        with Image.open(stream) as image:
            if _is_wide(image):
                _require_narrow(image, name, allow_16bit=allow_16bit)
            noticed = Noticed.of(image)  # before it is loaded, which forgets how wide it is
            return _as_rgb(image), noticed
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


def _is_lossy_webp(image: Image.Image) -> bool:
    """Say whether a picture that was opened is a WebP with a chunk of lossy pixels."""
    file: IO[bytes] | None = getattr(image, "fp", None)
    if image.format != "WEBP" or file is None:
        return False
    file.seek(12)  # after RIFF, the size and WEBP
    while len(header := file.read(8)) == 8:
        kind, size = struct.unpack("<4sI", header)
        if kind == b"VP8 ":
            return True
        # The chunks of a frame follow its 16 bytes of place, size and time.
        file.seek(16 if kind == b"ANMF" else size + size % 2, os.SEEK_CUR)
    return False
