"""``genmetrics eval``: scores of samples against real images."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from genmetrics.commands.arguments import (
    add_feature_options,
    add_reading_options,
    choose_device,
    open_source,
    require_parent,
)
from genmetrics.commands.output import document, progress_bar, write

HELP = "scores of samples against real images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("samples", type=Path, metavar="SAMPLES", help="images to judge")
    parser.add_argument(
        "--ref", dest="reference", type=Path, required=True, metavar="REF", help="real images"
    )
    parser.add_argument(
        "--metrics", choices=("fid",), default="fid", help="what to compute (default: fid)"
    )
    add_scoring_options(parser)


def add_scoring_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``fid`` has too."""
    add_feature_options(parser)
    add_reading_options(parser)
    parser.add_argument(
        "--json", metavar="FILE", help="write a JSON report; - prints it in place of the table"
    )


def run(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Score and print."""
    if options.json not in (None, "-"):
        require_parent(Path(options.json), "--json")
    samples, reference = (open_source(options, p) for p in (options.samples, options.reference))
    device = choose_device(options.device)

    from genmetrics.evaluation import evaluate
    from genmetrics.extractors import get_extractor

    extractor = get_extractor(options.extractor, weights=options.weights, device=device)
    with progress_bar(len(samples) + len(reference)) as bar:
        report = evaluate(
            samples,
            reference,
            extractor=extractor,
            batch_size=options.batch_size,
            seed=options.seed,
            progress=bar.update,
        )
    for remark in report.remarks:
        sys.stderr.write(f"warning: {remark.message}\n")
    write(document(report.to_dict(), command), report.to_text(), options.json)
