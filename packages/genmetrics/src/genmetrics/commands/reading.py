"""How commands find their images. Imports no torch."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genmetrics.sources import ImageSource

__all__ = ["add_source_options", "open_all", "warn"]


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add which images of a folder or zip are taken."""
    add = parser.add_argument
    add("--recursive", action="store_true", help="read sub-folders at any depth")
    add(
        "--on-bad-image",
        choices=("error", "skip"),
        default="error",
        help="skip leaves out pictures that cannot be read, names them, and lowers N; it decodes "
        "all pictures once more (default: error)",
    )


def open_all(options: argparse.Namespace, path: Path) -> "ImageSource":
    """Open images as ``add_source_options`` says."""
    from genmetrics.sources import open_images

    return open_images(path, recursive=options.recursive, on_bad_image=options.on_bad_image)


def warn(source: "ImageSource") -> None:
    """Print what was noticed about the images."""
    for sentence in source.remarks():
        sys.stderr.write(f"warning: {sentence}\n")
