"""How commands find their images. Imports no torch."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmetrics.errors import EXIT_SKIPPED, UsageError

if TYPE_CHECKING:
    from genmetrics.images.sources import ImageSource

__all__ = ["add_source_options", "open_all", "reading", "warn"]


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add which images of a folder or zip are taken, and how their bytes are read."""
    add = parser.add_argument
    add("--recursive", action="store_true", help="read sub-folders at any depth")
    add(
        "--on-bad-image",
        choices=("error", "skip"),
        default="error",
        help="skip leaves out pictures that cannot be read, names them, lowers N and ends with "
        "exit code 6; it decodes all pictures once more (default: error)",
    )
    add(
        "--float-range",
        type=float_range,
        metavar="LOW,HIGH",
        help="values of black and white in an npz of floats, 0,1 or -1,1; rounded to 256 levels",
    )
    add(
        "--allow-16bit",
        action="store_true",
        help="keep the upper 8 bits of pictures of 16 bits, which are refused otherwise",
    )
    add("--strict-size", action="store_true", help="refuse a set of pictures of several sizes")


def reading(options: argparse.Namespace) -> dict[str, Any]:
    """Return what ``add_source_options`` says to ``genmetrics.images.sources.open_images``."""
    names = ("recursive", "on_bad_image", "float_range", "allow_16bit", "strict_size")
    return {name: getattr(options, name) for name in names}


def open_all(options: argparse.Namespace, path: Path) -> "ImageSource":
    """Open images as ``add_source_options`` says; if some are skipped, the exit code tells."""
    from genmetrics.images.sources import open_images

    source = open_images(path, **reading(options))
    if getattr(source, "skipped", ()):
        options.exit_code = EXIT_SKIPPED
    return source


def warn(source: "ImageSource") -> None:
    """Print what was noticed about the images."""
    for sentence in source.remarks():
        sys.stderr.write(f"warning: {sentence}\n")


def float_range(text: str) -> tuple[float, float]:
    """Return the values of black and white."""
    from genmetrics.images.float_images import check_float_range

    try:
        low, high = map(float, text.split(","))
        return check_float_range(low, high)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected two numbers such as 0,1 or -1,1; got {text!r}"
        ) from error
