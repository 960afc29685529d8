"""``genmetrics fid A B``: the Frechet distance of two sets."""

import argparse
from pathlib import Path

from genmetrics.commands.eval import add_scoring_options, run

__all__ = ["HELP", "add_arguments", "run"]

HELP = "Frechet distance of two sets"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("samples", type=Path, metavar="A", help="images to judge")
    parser.add_argument("reference", type=Path, metavar="B", help="real images")
    add_scoring_options(parser)
