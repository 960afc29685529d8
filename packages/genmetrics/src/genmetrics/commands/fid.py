"""``genmetrics fid A B``: the Frechet distance of two sets."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmetrics.commands.eval import add_scoring_options, require_extractor, score
from genmetrics.commands.file_kinds import holds_statistics, require_report
from genmetrics.commands.output import document, write
from genmetrics.errors import BadInput, UsageError
from genmetrics.evaluation.protocols import SCHEMA, choose_protocol

if TYPE_CHECKING:
    from genmetrics.evaluation.report import Remark
    from genmetrics.features.stats import GaussianStats

HELP = "Frechet distance of two sets"

_HOW = ("weights_sha256", "preprocess_id")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("samples", type=Path, metavar="A", help="images to judge, or statistics if B is too")
    add("reference", type=Path, metavar="B", help="real images, or statistics")
    add_scoring_options(parser)
    parser.set_defaults(metrics=("fid",))


def run(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Score and print."""
    if not holds_statistics(options.samples):
        score(options, command, choose_protocol(None, options.extractor, metrics=("fid",)))
    elif holds_statistics(options.reference):
        _of_statistics(options, command)
    else:
        raise UsageError(
            f"Expected A of images, or A and B of statistics; got statistics in {options.samples} "
            "alone. Swap the two, which does not change the distance."
        )


def _of_statistics(options: argparse.Namespace, command: Sequence[str]) -> None:
    require_report(options.json)

    from genmetrics.evaluation.report import Remark
    from genmetrics.features.stats import require_compatible
    from genmetrics.features.stats_files import load_all_stats
    from genmetrics.metrics.frechet import frechet_distance

    paths = {"samples": options.samples, "reference": options.reference}
    a, b = (load_all_stats(path) for path in paths.values())
    if options.extractor is not None:
        require_extractor(options.samples, a, options.extractor)
    output = next((name for name in a if name in b), None)
    if output is None:
        raise BadInput(
            f"Expected statistics of one output; got {', '.join(a)} and {', '.join(b)}. "
            "Build both with one extractor."
        )
    require_compatible(a[output], b[output])
    distance = frechet_distance(a[output], b[output])
    known = _known_network(a[output], b[output])
    network = known.get("name") or ("inception" if output == "pool3" else output)
    name = "fid" if network == "inception" else f"fd_{network}"
    remarks = _remarks({options.samples: a[output], options.reference: b[output]}, network, known)
    if distance.rank_deficient:
        remarks.append(
            Remark(
                "RANK_DEFICIENT",
                f"A set has no more images than the {a[output].dim} dimensions: {name} is far "
                "above its value for many images. Compare it only at the same N.",
            )
        )
    for remark in remarks:
        sys.stderr.write(f"warning: {remark.message}\n")
    counts = {"n_samples": distance.n_a, "n_ref": distance.n_b}
    plain: dict[str, Any] = {
        "schema": SCHEMA,
        **{side: {"path": str(path), "kind": "statistics"} for side, path in paths.items()},
        **({"extractor": known} if known else {}),
        "metrics": {
            name: {
                "value": distance.value,
                "se": None,
                **counts,
                "mean_term": distance.mean_term,
                "covariance_term": distance.covariance_term,
                "rank_deficient": distance.rank_deficient,
            }
        },
        "warnings": [remark._asdict() for remark in remarks],
    }
    n, m = ("unknown" if count is None else count for count in counts.values())
    table = f"{name:<20} {distance.value:<22.4f} {n} samples, {m} reference images"
    write(document(plain, command), table, options.json)


def _known_network(a: "GaussianStats", b: "GaussianStats") -> dict[str, Any]:
    """Return what the two say of their network; nothing if neither names it."""
    meta = {**b.meta, **a.meta}
    if "extractor" not in meta:
        return {}
    others: dict[str, Any] = {key: meta[key] for key in _HOW if key in meta}
    return {"name": str(meta["extractor"]), **others}


def _remarks(
    sets: "dict[Path, GaussianStats]", network: str, known: dict[str, Any]
) -> "list[Remark]":
    """Return what to be careful about; files that name no network are Inception's if of pool3."""
    from genmetrics.evaluation.statistics_remarks import other_weights, unknown_preprocessing

    remarks: list[Remark] = []
    for path, stats in sets.items():
        remarks += unknown_preprocessing(path, [stats], network, known.get("preprocess_id"))
    if "weights_sha256" in known:
        remarks += other_weights(network, known["weights_sha256"])
    return remarks
