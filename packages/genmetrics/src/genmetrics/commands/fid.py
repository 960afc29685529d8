"""``genmetrics fid A B``: the Frechet distance of two sets."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from genmetrics.commands.eval import add_scoring_options, score
from genmetrics.protocols import choose_protocol

HELP = "Frechet distance of two sets"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("samples", type=Path, metavar="A", help="images to judge")
    parser.add_argument("reference", type=Path, metavar="B", help="real images, or statistics")
    add_scoring_options(parser)
    parser.set_defaults(metrics=("fid",))


def run(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Score and print."""
    score(options, command, choose_protocol(None, options.extractor, metrics=("fid",)))
