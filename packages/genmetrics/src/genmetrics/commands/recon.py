"""``genmetrics recon``: PSNR, SSIM, LPIPS and rFID of images and their reconstructions."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmetrics.commands.arguments import (
    add_device_option,
    add_network_options,
    add_reading_options,
    choose_device,
    count,
    random_rows,
)
from genmetrics.commands.file_kinds import require_report
from genmetrics.commands.output import add_json_option, document, progress_bar, write
from genmetrics.commands.reading import open_all
from genmetrics.errors import BadInput

if TYPE_CHECKING:
    from genmetrics.evaluation.reconstruction_report import ReconstructionResult
    from genmetrics.images.pairing import Pairing, Pairs

HELP = "PSNR, SSIM, LPIPS and rFID of reconstructions"

_METRICS = ("psnr", "ssim", "lpips", "rfid")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("real", type=Path, metavar="REAL", help="original images")
    add("recon", type=Path, metavar="RECON", help="their reconstructions, of the same sizes")
    add(
        "--metrics",
        type=_metrics,
        default=_METRICS,
        metavar="LIST",
        help=f"what to compute (default: {','.join(_METRICS)})",
    )
    add(
        "--pairing",
        choices=("name", "index"),
        help="partners have one name without extension, or one place in the order "
        "(default: name, or index if one is an npz)",
    )
    add(
        "--ssim-window",
        choices=("gaussian", "uniform"),
        default="gaussian",
        help="11x11 of sigma 1.5, or scikit-image's 7x7 (default: gaussian)",
    )
    add(
        "--lpips-net",
        choices=("alex", "vgg", "squeeze"),
        default="alex",
        help="backbone of LPIPS (default: alex)",
    )
    add("--lpips-weights", type=Path, metavar="FILE", help="torchvision's weights of the backbone")
    add_network_options(parser, "features of rfid")
    add("--batch-size", type=count, default=64, metavar="N", help="pairs at a time (default: 64)")
    add_device_option(parser)
    add("--worst", type=count, metavar="K", help="list the K worst pairs by each metric")
    add("--per-class", action="store_true", help="add the scores of each class of originals")
    add_reading_options(parser)
    add_json_option(parser)


def run(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Compare and print."""
    require_report(options.json)
    pairs, pairing = _open_pairs(options)
    if options.per_class and pairs.real.labels is None:
        raise BadInput(
            f"Expected classes of the images in {options.real}, as sub-folders or arr_1; got none. "
            "Leave --per-class out."
        )
    chosen = choose_device(options.device)

    from genmetrics.evaluation.reconstruction import reconstruction_metrics

    networks = _networks(options, chosen)
    passes = ("rfid" in options.metrics) + bool(set(options.metrics) - {"rfid"})
    with progress_bar(2 * len(pairs.names) * passes) as bar:
        result = reconstruction_metrics(
            pairs.real,
            pairs.recon,
            options.metrics,
            pairing,
            ssim_window=options.ssim_window,
            batch_size=options.batch_size,
            cache=options.cache,
            progress=bar.update,
            **networks,
        )
    for remark in result.remarks:
        sys.stderr.write(f"warning: {remark.message}\n")
    plain, lines = result.to_dict(), [result.to_text()]
    if options.worst is not None:
        plain["worst"] = _worst(result, options.worst)
        lines += _worst_lines(plain["worst"])
    if options.per_class:
        plain["per_class"] = _per_class(result)
        lines += _class_lines(plain["per_class"])
    write(document(plain, command), "\n".join(lines), options.json)


def _networks(options: argparse.Namespace, device: str) -> dict[str, Any]:
    """Build what the metrics need, as arguments of ``reconstruction_metrics``."""
    from genmetrics.networks.extractors import get_extractor
    from genmetrics.networks.perceptual import perceptual_distance

    networks: dict[str, Any] = {}
    if "lpips" in options.metrics:
        networks["perceptual"] = perceptual_distance(
            options.lpips_net, weights=options.lpips_weights, device=device
        )
    if "rfid" in options.metrics:
        networks["extractor"] = get_extractor(
            options.extractor, weights=options.weights, device=device
        )
    return networks


def _worst(result: "ReconstructionResult", num: int) -> dict[str, list[dict[str, Any]]]:
    return {
        metric: [each._asdict() for each in pairs] for metric, pairs in result.worst(num).items()
    }


def _worst_lines(worst: dict[str, list[dict[str, Any]]]) -> list[str]:
    return [
        f"worst {metric:<7} {each['value']:<23.5f} {each['name']}"
        for metric, pairs in worst.items()
        for each in pairs
    ]


def _per_class(result: "ReconstructionResult") -> dict[str, dict[str, Any]]:
    return {
        name: {"n_pairs": len(next(iter(scores.values())).per_pair) if scores else 0}
        | {
            metric: {"value": score.value, "se": score.standard_error}
            for metric, score in scores.items()
        }
        for name, scores in result.per_class().items()
    }


def _class_lines(per_class: dict[str, dict[str, Any]]) -> list[str]:
    metrics = [metric for metric in next(iter(per_class.values())) if metric != "n_pairs"]
    width = max(13, *(len(name) for name in per_class))
    titles = "".join(f" {metric:>10}" for metric in metrics)
    lines = [f"{'class':<{width}} {'pairs':>6}{titles}"]
    for name, scores in per_class.items():
        values = "".join(f" {scores[metric]['value']:>10.4f}" for metric in metrics)
        lines.append(f"{name:<{width}} {scores['n_pairs']:>6}{values}")
    return lines


def _metrics(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in _METRICS]:
        raise argparse.ArgumentTypeError(
            f"expected names among {','.join(_METRICS)}; got {unknown[0]!r}"
        )
    return names


def _open_pairs(options: argparse.Namespace) -> tuple["Pairs", "Pairing"]:
    """Pair the images, then take some of the pairs if a limit is given."""
    from genmetrics.images.pairing import pair_images, usual_pairing

    real, recon = (open_all(options, path) for path in (options.real, options.recon))
    pairing: Pairing = options.pairing or usual_pairing(real, recon)
    pairs = pair_images(real, recon, pairing)
    rows = random_rows(len(pairs.names), options.limit, options.seed)
    if rows is not None:
        pairs = pair_images(pairs.real.select(rows), pairs.recon.select(rows), pairing)
    return pairs, pairing
