"""``genmetrics probe``: linear probes of saved features, all depths in one run."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmetrics.commands.arguments import add_device_option, choose_device, count, seed
from genmetrics.commands.file_kinds import require_report
from genmetrics.commands.output import add_json_option, document, progress_bar, write

if TYPE_CHECKING:
    from genmetrics.probes.data import ProbeData
    from genmetrics.probes.report import ProbeResult

HELP = "linear probes of saved features"

_PRESETS = ("repa", "mae", "mimflow-tools")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    features = "npz of features, (n, d) or (n, tokens, c), and integer labels"
    add("--train", type=Path, required=True, metavar="FILE", help=features)
    add("--val", type=Path, required=True, metavar="FILE", help="the same, to test on")
    add(
        "--preset",
        choices=_PRESETS,
        default="repa",
        help="whose recipe (default: repa)",
    )
    add(
        "--keys",
        type=_names,
        metavar="A,B",
        help="arrays to probe (default: all but labels, ids, meta)",
    )
    add(
        "--pool",
        choices=("mean", "max", "flatten", "first"),
        default="mean",
        help="what becomes of tokens (default: mean)",
    )
    add("--seeds", type=_seeds, default=(0,), metavar="0,1,2", help="one training for each")
    add(
        "--epochs",
        type=count,
        metavar="N",
        help="passes over the rows (default: steps as on ImageNet)",
    )
    add("--batch-size", type=count, metavar="N", help="rows per step (default: the preset's)")
    add("--knn", action="store_true", help="add the 20 nearest neighbours as a cross-check")
    add("--logistic", action="store_true", help="add a logistic regression as a cross-check")
    add_device_option(parser)
    add_json_option(parser)


def run(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Train, test and print."""
    require_report(options.json)
    chosen = choose_device(options.device)

    from genmetrics.probes.data import load_probe_file
    from genmetrics.probes.presets import probe_preset
    from genmetrics.probes.training import probe_depths

    train = load_probe_file(options.train, options.keys, options.pool)
    val = load_probe_file(options.val, options.keys, options.pool)
    recipe = probe_preset(options.preset)
    n = len(next(iter(train.values())))
    epochs = options.epochs or recipe.epochs_for(n, options.batch_size)
    with progress_bar(epochs * len(options.seeds), unit="epoch") as bar:
        results = probe_depths(
            train,
            val,
            options.preset,
            options.seeds,
            epochs=epochs,
            batch_size=options.batch_size,
            device=chosen,
            progress=bar.update,
        )
    checks = {key: _cross_checks(options, train[key], val[key], chosen) for key in results}
    report = _report(options, results, checks, chosen)
    for warning in report["warnings"]:
        sys.stderr.write(f"warning: {warning['message']}\n")
    write(document(report, command), _table(results, checks), options.json)


def _report(
    options: argparse.Namespace,
    results: dict[str, "ProbeResult"],
    checks: dict[str, dict[str, Any]],
    device: str,
) -> dict[str, Any]:
    """Return the accuracies with everything behind them, as plain values."""
    from genmetrics.evaluation.protocols import SCHEMA
    from genmetrics.evaluation.report import environment

    first = next(iter(results.values()))
    return {
        "schema": SCHEMA,
        "genmetrics_version": version("genmetrics"),
        "environment": environment(device=device),
        "train": {"path": str(options.train), "n": first.n_train},
        "val": {"path": str(options.val), "n": first.n_val},
        "preset": first.preset.to_dict()
        | {
            "epochs": first.epochs,
            "batch_size": first.batch_size,
            "peak_lr": first.preset.peak_lr(first.batch_size, first.n_train),
        },
        "seeds": list(options.seeds),
        "probes": {key: results[key].to_dict() | checks[key] for key in results},
        "warnings": [remark._asdict() for remark in first.remarks],
    }


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.split(",")))


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(seed(part) for part in text.split(",")))


def _cross_checks(
    options: argparse.Namespace, train: "ProbeData", val: "ProbeData", device: str
) -> dict[str, Any]:
    from dataclasses import asdict

    from genmetrics.probes.data import labels_as_in
    from genmetrics.probes.knn import knn_accuracy
    from genmetrics.probes.logistic import tuned_logistic_probe

    checks: dict[str, Any] = {}
    if options.knn:
        checks["knn"] = asdict(knn_accuracy(train, val, min(20, len(train)), device=device))
    if options.logistic:
        tuned = tuned_logistic_probe(train.rows(), train.y)
        checks["logistic"] = {
            "top1": tuned.probe.accuracy(val.rows(), labels_as_in(train, val)),
            "l2": tuned.l2,
            "l2_chosen_on": "a fifth of the training rows",
        }
    return checks


def _table(results: dict[str, "ProbeResult"], checks: dict[str, dict[str, Any]]) -> str:
    first = next(iter(results.values()))
    seeds = len(first.runs)
    extra = list(next(iter(checks.values())))
    lines = [
        f"{first.preset.name}: {first.preset.optimizer_id}, {first.epochs} epochs, batch "
        f"{first.batch_size}, {first.n_train} rows to train, {first.n_val} to test, "
        f"{first.num_classes} classes, {seeds} seed{'s' if seeds > 1 else ''}"
    ]
    width = max(8, *(len(key) for key in results))
    titles = ["top-1", "top-5", "best top-1", "best top-5", *extra]
    lines.append(f"{'%':<{width}} {'dim':>6} {'pool':>7}" + "".join(f" {t:>14}" for t in titles))
    for key, result in results.items():
        spreads = (result.top1, result.top5, result.best_top1, result.best_top5)
        cells = ["-" if each is None else _percent(each.mean, each.std) for each in spreads]
        cells += [_percent(checks[key][name]["top1"], None) for name in extra]
        row = "".join(f" {cell:>14}" for cell in cells)
        lines.append(f"{key:<{width}} {result.feature_dim:>6} {result.pooling:>7}{row}")
    return "\n".join(lines)


def _percent(mean: float, std: float | None) -> str:
    return f"{100 * mean:.2f}" if std is None else f"{100 * mean:.2f} +- {100 * std:.2f}"
