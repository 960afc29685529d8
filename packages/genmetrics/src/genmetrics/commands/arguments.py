"""Options that several commands have, and how their values are checked. Imports no torch."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from genmetrics.errors import UsageError

if TYPE_CHECKING:
    from genmetrics.sources import ImageSource

__all__ = [
    "add_feature_options",
    "add_reading_options",
    "choose_device",
    "count",
    "open_source",
    "require_parent",
    "seed",
]


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add how images are found and which of them are read."""
    add = parser.add_argument
    add("--recursive", action="store_true", help="read sub-folders at any depth")
    add("--limit", type=count, metavar="N", help="read only N images of each set, at random")
    add("--seed", type=seed, default=0, metavar="S", help="seed of random choices (default: 0)")


def add_feature_options(parser: argparse.ArgumentParser) -> None:
    """Add which feature network runs, and where."""
    add = parser.add_argument
    add(
        "--extractor",
        choices=("inception", "efflite0"),
        default="inception",
        help="feature network (default: inception)",
    )
    add("--weights", type=Path, metavar="FILE", help="weight file of the feature network")
    add("--batch-size", type=count, default=64, metavar="N", help="images per pass (default: 64)")
    add("--device", type=device, default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")


def count(text: str) -> int:
    """Return a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1; got {text!r}")
    return int(text)


def seed(text: str) -> int:
    """Return a whole number that seeds a generator."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2^63; got {text!r}")
    return int(text)


def device(text: str) -> str:
    """Return the name of a device, which may not exist."""
    kind, _, index = text.partition(":")
    if text not in ("auto", "cpu", "cuda") and not (kind == "cuda" and index.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected auto, cpu, cuda or cuda:N; got {text!r}")
    return text


def choose_device(wanted: str) -> str:
    """Return a device that exists.

    Raises:
        UsageError: If the one that was asked for does not.
    """
    import torch

    devices = torch.cuda.device_count()
    if wanted == "auto":
        return "cuda" if devices else "cpu"
    if wanted.startswith("cuda") and (torch.device(wanted).index or 0) >= devices:
        raise UsageError(
            f"Expected one of the CUDA devices, of which there are {devices}; "
            f"got --device {wanted}. Choose --device cpu."
        )
    return wanted


def open_source(options: argparse.Namespace, path: Path) -> "ImageSource":
    """Open images as ``add_reading_options`` says."""
    from numpy.random import default_rng

    from genmetrics.sources import open_images

    source = open_images(path, recursive=options.recursive)
    if options.limit is None or options.limit >= len(source):
        return source
    chosen = default_rng(options.seed).choice(len(source), options.limit, replace=False)
    return source.select(sorted(chosen.tolist()))


def require_parent(path: Path, flag: str) -> None:
    """Raise UsageError unless the folder of a file that will be written exists."""
    if not path.absolute().parent.is_dir():
        raise UsageError(
            f"Expected {flag} in an existing folder; got {path}. Make the folder first."
        )
