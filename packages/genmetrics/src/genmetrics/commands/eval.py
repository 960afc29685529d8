"""``genmetrics eval``: scores of samples against real images or their statistics."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmetrics.commands.arguments import (
    add_feature_options,
    add_reading_options,
    choose_device,
    count,
    extraction,
    open_source,
    take_some,
)
from genmetrics.commands.file_kinds import require_report
from genmetrics.commands.output import add_json_option, document, progress_bar, write
from genmetrics.commands.reading import reading
from genmetrics.errors import UsageError
from genmetrics.evaluation.protocols import (
    METRICS,
    PROTOCOLS,
    Protocol,
    choose_protocol,
    metric_names,
)
from genmetrics.factories import is_factory

if TYPE_CHECKING:
    from genmetrics.evaluation.reference import Reference
    from genmetrics.features.stats import GaussianStats

HELP = "scores of samples against real images or their statistics"

_PR_PRECISIONS = ("float32", "float64", "adm-fp16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("samples", type=Path, metavar="SAMPLES", help="images to judge")
    add(
        "--ref",
        dest="reference",
        type=Path,
        required=True,
        metavar="REF",
        help="real images, a file of statistics, or ADM's reference file, which is both; --limit "
        "draws from its images alone",
    )
    add("--protocol", metavar="NAME", help=f"{', '.join(PROTOCOLS)} (default: adm)")
    add(
        "--metrics",
        type=_metrics,
        metavar="M,M",
        help=f"any of {','.join(METRICS)} (default: the protocol's)",
    )
    add(
        "--pr-precision",
        choices=_PR_PRECISIONS,
        help="arithmetic of precision and recall; adm-fp16 repeats ADM's (default: float32)",
    )
    add(
        "--kid-subset-size",
        type=count,
        metavar="N",
        help="images in each of KID's subsets (default: 1000); compare equal sizes only",
    )
    add_scoring_options(parser)


def add_scoring_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``fid`` has too."""
    add_feature_options(parser)
    parser.set_defaults(extractor=None)
    add_reading_options(parser)
    add_json_option(parser)


def run(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Score by a protocol and print."""
    score(options, command, _protocol(options))


def score(options: argparse.Namespace, command: Sequence[str], protocol: Protocol) -> None:
    """Score and print."""
    require_report(options.json)
    samples, reference = open_source(options, options.samples), _open_reference(options)
    if reference.images is None and not is_factory(protocol.extractor):  # whose name is not known
        require_extractor(options.reference, reference.statistics, protocol.extractor)
    if options.metrics is None and reference.images is None:
        protocol = _without_images(protocol)
    how: dict[str, Any] = extraction(options)
    device = choose_device(options.device)

    from genmetrics.evaluation.evaluate import evaluate
    from genmetrics.networks.extractors import get_extractor

    extractor = get_extractor(protocol.extractor, weights=options.weights, device=device)
    real = 0 if reference.images is None else len(reference.images)
    with progress_bar(len(samples) + real) as bar:
        report = evaluate(
            samples,
            reference,
            extractor=extractor,
            protocol=protocol,
            seed=options.seed,
            progress=bar.update,
            **how,
        )
    for remark in report.remarks:
        sys.stderr.write(f"warning: {remark.message}\n")
    write(document(report.to_dict(), command), report.to_text(), options.json)


def require_extractor(path: Path, statistics: "Mapping[str, GaussianStats]", name: str) -> None:
    """Raise UsageError if statistics say that they are of another network."""
    known = {
        str(each.meta["extractor"]) for each in statistics.values() if "extractor" in each.meta
    }
    if known and name not in known:
        raise UsageError(
            f"Expected --extractor {known.pop()}, which {path} is of; got {name}. Pass it, or "
            "statistics of another network."
        )


def _without_images(protocol: Protocol) -> Protocol:
    """Leave out what statistics alone do not give; nobody asked for it by name."""
    kept = tuple(each for each in protocol.metrics if each in ("fid", "sfid", "is", "fd_inf"))
    left_out = [each for each in protocol.metrics if each not in kept]
    if not kept:
        raise UsageError(
            f"Expected a reference of images for {', '.join(left_out)}; got statistics alone. "
            "Give images, or choose other --metrics."
        )
    if left_out:
        sys.stderr.write(
            f"warning: The reference has no images, so {', '.join(left_out)} is left out.\n"
        )
    return replace(protocol, metrics=kept)


def _metrics(text: str) -> tuple[str, ...]:
    try:
        return metric_names(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _protocol(options: argparse.Namespace) -> Protocol:
    return choose_protocol(
        options.protocol,
        options.extractor,
        metrics=options.metrics,
        pr_precision=options.pr_precision,
        kid_subset_size=options.kid_subset_size,
    )


def _open_reference(options: argparse.Namespace) -> "Reference":
    from genmetrics.evaluation.reference import open_reference

    # Skipping decodes all images, so it is left to open_source.
    how = reading(options) | {"on_bad_image": "error", "strict_size": False}
    reference = open_reference(options.reference, **how)
    if reference.images is None:
        return reference
    if not reference.statistics:
        return replace(reference, images=open_source(options, options.reference))
    limited = take_some(options, reference.images)
    if len(limited) < len(reference.images):
        sys.stderr.write(
            f"warning: --limit draws {len(limited)} of the images in {options.reference}; Frechet "
            "distances to its statistics, where they are of the network, are to all images behind "
            "these.\n"
        )
    return replace(reference, images=limited)
