"""Options that several commands have, and how their values are checked. Imports no torch."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmetrics.commands.reading import add_source_options, open_all
from genmetrics.errors import UsageError
from genmetrics.heap import keep_freed_memory
from genmetrics.networks.extractor_names import check_extractor_name

if TYPE_CHECKING:
    from genmetrics.images.sources import ImageSource

__all__ = [
    "add_device_option",
    "add_feature_options",
    "add_network_options",
    "add_reading_options",
    "choose_device",
    "choose_devices",
    "count",
    "extraction",
    "open_source",
    "random_rows",
    "require_parent",
    "seed",
    "take_some",
]


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add how images are found and which of them are read."""
    add_source_options(parser)
    add = parser.add_argument
    add("--limit", type=count, metavar="N", help="read only N images of each set, at random")
    add("--seed", type=seed, default=0, metavar="S", help="seed of random choices (default: 0)")


def add_network_options(parser: argparse.ArgumentParser, features: str = "features") -> None:
    """Add which feature network runs, and where what it returns is kept.

    Args:
        parser: Of a command.
        features: What help calls them.
    """
    add = parser.add_argument
    add(
        "--extractor",
        type=extractor,
        default="inception",
        metavar="NAME",
        help=f"network of the {features}: inception, efflite0, dinov2, clip, timm:NAME, "
        "open_clip:ARCH[/TAG], a plugin's, or PKG.MOD:FACTORY, a function (weights, device) "
        "that returns an Extractor (default: inception)",
    )
    add("--weights", type=Path, metavar="FILE", help="weight file of the feature network")
    add(
        "--cache",
        type=Path,
        default=os.environ.get("GENMETRICS_CACHE") or None,
        metavar="DIR",
        help=f"keep the {features} there, so that a run that was killed goes on "
        "(default: GENMETRICS_CACHE, else nowhere)",
    )


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add the one device on which something runs."""
    parser.add_argument(
        "--device", type=device, default="auto", help="auto, cpu, cuda or cuda:N (default: auto)"
    )


def add_feature_options(parser: argparse.ArgumentParser) -> None:
    """Add which feature network runs, where and how fast."""
    add_network_options(parser)
    add = parser.add_argument
    add("--batch-size", type=count, default=64, metavar="N", help="images per pass (default: 64)")
    add(
        "--device",
        type=devices,
        default="auto",
        help="auto, cpu, cuda, cuda:N or several (cuda:0,cuda:1) side by side (default: auto)",
    )
    add("--workers", type=count, default=4, metavar="N", help="images read at a time (default: 4)")
    add(
        "--processes",
        action="store_true",
        help="decode pictures in processes, not threads",
    )


def extraction(options: argparse.Namespace) -> dict[str, Any]:
    """Return what ``add_feature_options`` says to ``genmetrics.features.extraction.extract``.

    Raises:
        UsageError: If a device is not there.
    """
    from genmetrics.images.decoding import Processes

    chosen = choose_devices(options.device)
    return {
        "batch_size": options.batch_size,
        "cache": options.cache,
        "workers": Processes(options.workers) if options.processes else options.workers,
        "devices": chosen if len(chosen) > 1 else (),
    }


def extractor(text: str) -> str:
    """Return the name of a feature network; of those in libraries only the kind is checked."""
    try:
        return check_extractor_name(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


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


def devices(text: str) -> str:
    """Return the names of devices, separated by commas, which may not exist."""
    names = text.split(",")
    if len(names) > 1 and "auto" in names:
        raise argparse.ArgumentTypeError(f"expected auto alone, or names of devices; got {text!r}")
    return ",".join(device(name) for name in names)


def choose_device(wanted: str) -> str:
    """Return a device that exists: the first, where several are wanted.

    Raises:
        UsageError: If one that was asked for does not.
    """
    return choose_devices(wanted)[0]


def choose_devices(wanted: str) -> tuple[str, ...]:
    """Return devices that exist; a terminal is told if auto finds the CPU alone.

    Where a CPU is to compute, this process keeps freed memory from now on.

    Raises:
        UsageError: If one that was asked for does not.
    """
    import torch

    present = torch.cuda.device_count()
    if wanted == "auto" and not present and sys.stderr.isatty():
        sys.stderr.write("note: there is no CUDA device; this runs on the CPU\n")
    if wanted == "auto":
        wanted = "cuda" if present else "cpu"
    for name in wanted.split(","):
        if name.startswith("cuda") and (torch.device(name).index or 0) >= present:
            raise UsageError(
                f"Expected one of the CUDA devices, of which there are {present}; "
                f"got --device {name}. Choose --device cpu."
            )
    if "cpu" in wanted.split(","):
        keep_freed_memory()
    return tuple(wanted.split(","))


def open_source(options: argparse.Namespace, path: Path) -> "ImageSource":
    """Open images as ``add_reading_options`` says."""
    return take_some(options, open_all(options, path))


def take_some(options: argparse.Namespace, source: "ImageSource") -> "ImageSource":
    """Return as many images as ``--limit`` says, at random by ``--seed``; all without it."""
    rows = random_rows(len(source), options.limit, options.seed)
    return source if rows is None else source.select(rows)


def random_rows(n: int, most: int | None, seed: int) -> list[int] | None:
    """Return some of ``n`` rows at random, in ascending order; None stands for all.

    Args:
        n: Rows there are.
        most: Rows to take; None for all.
        seed: Of the choice.
    """
    from numpy.random import default_rng

    if most is None or most >= n:
        return None
    return sorted(default_rng(seed).choice(n, most, replace=False).tolist())


def require_parent(path: Path, flag: str) -> None:
    """Raise UsageError unless a file can be written there, or into the folder that is there."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UsageError(
            f"Expected {flag} in an existing folder; got {path}. Make the folder first."
        )
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UsageError(
            f"Expected {flag} where this user may write; got {path}. Name another folder."
        )
