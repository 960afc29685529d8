"""``genmetrics prepare SRC DST --size N``: the square crops of ADM's references."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from genmetrics.commands.arguments import count, require_parent
from genmetrics.commands.output import progress_bar
from genmetrics.commands.reading import add_source_options, open_all, warn

HELP = "centre crops of real images, as ADM makes them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("source", type=Path, metavar="SRC", help="folder, zip or npz of images")
    parser.add_argument(
        "target",
        type=Path,
        metavar="DST",
        help="new or empty folder for PNG files; a run that was stopped goes on when repeated",
    )
    parser.add_argument(
        "--size", type=count, required=True, metavar="N", help="side of the squares, in pixels"
    )
    add_source_options(parser)


def run(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Write and say what."""
    require_parent(options.target, "DST")
    source = open_all(options, options.source)

    from genmetrics.images.writing import prepare_images

    with progress_bar(len(source)) as bar:
        prepare_images(source, options.target, options.size, bar.update)
    warn(source)
    sys.stdout.write(f"{options.target}: {len(source)} images of {options.size}x{options.size}\n")
