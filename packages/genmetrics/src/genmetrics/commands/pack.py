"""``genmetrics pack DIR OUT.npz``: images into one array."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from genmetrics.commands.file_kinds import require_target
from genmetrics.commands.output import progress_bar
from genmetrics.commands.reading import add_source_options, open_all, warn

HELP = "images of one size into one .npz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("source", type=Path, metavar="DIR", help="folder or zip of images")
    parser.add_argument("target", type=Path, metavar="OUT.npz", help="file to write")
    add_source_options(parser)


def run(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Write and say what."""
    require_target(options.target, "OUT.npz", "images", [options.source])
    source = open_all(options, options.source)

    from genmetrics.images.writing import pack_images

    with progress_bar(len(source)) as bar:
        pack_images(source, options.target, bar.update)
    warn(source)
    labels = (
        "" if source.labels is None else f", labels of {len(set(source.labels.tolist()))} classes"
    )
    sys.stdout.write(f"{options.target}: {len(source)} images{labels}\n")
