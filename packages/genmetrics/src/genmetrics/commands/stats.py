"""``genmetrics stats``: build, convert, merge and show files of statistics."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmetrics.commands.arguments import (
    add_feature_options,
    choose_device,
    count,
    extraction,
)
from genmetrics.commands.file_kinds import OTHER_STATISTICS, kind_of, require_report, require_target
from genmetrics.commands.output import add_json_option, document, progress_bar, write
from genmetrics.commands.reading import add_source_options, open_all, warn
from genmetrics.errors import UsageError
from genmetrics.evaluation.protocols import SCHEMA

if TYPE_CHECKING:
    from genmetrics.features.stats import GaussianStats

HELP = "build, convert, merge and show reference statistics"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=text, description=text, allow_abbrev=False)

    build = action("build", "statistics of a set of images")
    build.add_argument("source", type=Path, metavar="SRC", help="folder, zip or npz of images")
    build.add_argument("target", type=Path, metavar="OUT.npz", help="file to write")
    add_feature_options(build)
    add_source_options(build)
    build.add_argument(
        "--exact", action="store_true", help="sum on a grid of 2^-14, so that order never matters"
    )
    build.add_argument("--split", metavar="WORD", help="which images these are: train, val, ...")

    convert = action("convert", "statistics of another tool into our format")
    convert.add_argument("source", type=Path, metavar="IN", help="a .npz, .pt or .pth")
    convert.add_argument("target", type=Path, metavar="OUT.npz", help="file to write")
    convert.add_argument("--n", type=count, help="number of images, if the file does not say")

    merge = action("merge", "statistics of all images of disjoint sets")
    merge.add_argument("parts", type=Path, nargs="+", metavar="PART", help="files of statistics")
    merge.add_argument("target", type=Path, metavar="OUT.npz", help="file to write")
    merge.add_argument(
        "--force",
        action="store_true",
        help="merge in spite of differing networks or images that come twice",
    )
    merge.add_argument("--replace", action="store_true", help="replace OUT.npz if it is there")

    info = action("info", "what a file of statistics holds")
    info.add_argument("source", type=Path, metavar="FILE", help="a .npz, .pt or .pth")
    add_json_option(info)


def run(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Do one of the actions."""
    if options.action == "info":
        _info(options, command)
        return
    inputs = options.parts if options.action == "merge" else [options.source]
    if not _converts_in_place(options):
        require_target(options.target, "OUT.npz", "statistics", inputs)
    if options.action == "merge" and options.target.exists() and not options.replace:
        raise UsageError(
            f"Expected a new file as OUT.npz, the last argument; got {options.target}, which is "
            "there. Name another, or replace it with --replace."
        )
    {"build": _build, "convert": _convert, "merge": _merge}[options.action](options)


def _converts_in_place(options: argparse.Namespace) -> bool:
    if options.action != "convert" or options.source != options.target:
        return False
    return kind_of(options.source) in ("statistics", OTHER_STATISTICS)


def _build(options: argparse.Namespace) -> None:
    source = open_all(options, options.source)
    device = choose_device(options.device)

    from genmetrics.features.building import extract_stats
    from genmetrics.networks.extractors import get_extractor

    extractor = get_extractor(options.extractor, weights=options.weights, device=device)
    # Before the images are read: one that changes meanwhile must not pass for the new content.
    meta = _provenance(options, extractor, source.fingerprint())
    with progress_bar(len(source)) as bar:
        how = extraction(options)
        outputs = extract_stats(source, extractor, exact=options.exact, progress=bar.update, **how)
    for name, stats in outputs.items():
        outputs[name] = replace(stats, meta=meta | {"output": name})
    warn(source)
    _save(options.target, outputs)


def _provenance(
    options: argparse.Namespace, extractor: Any, fingerprint: str
) -> dict[str, str | int]:
    from importlib.metadata import version

    meta: dict[str, str | int] = {
        **extractor.provenance,
        "source": options.source.name,
        "source_fingerprint": fingerprint,
        "sums": "exact-2^-14" if options.exact else "float64",
        "genmetrics_version": version("genmetrics"),
        "torch_version": version("torch"),
    }
    return meta | ({} if options.split is None else {"split": options.split})


def _convert(options: argparse.Namespace) -> None:
    from genmetrics.features.stats_files import load_all_stats

    outputs = load_all_stats(options.source)
    for name, stats in outputs.items():
        if options.n is not None and stats.n not in (None, options.n):
            raise UsageError(
                f"Expected --n only where the file does not say; {options.source} says {stats.n} "
                f"and --n is {options.n}. Leave it out."
            )
        outputs[name] = replace(stats, n=stats.n if options.n is None else options.n)
    _save(options.target, outputs)


def _merge(options: argparse.Namespace) -> None:
    from genmetrics.features.stats import IncompatibleStats, merge_stats
    from genmetrics.features.stats_files import load_all_stats

    parts = [load_all_stats(path) for path in options.parts]
    for path, part in zip(options.parts, parts, strict=True):
        if part.keys() != parts[0].keys():
            raise IncompatibleStats(
                f"Expected the same outputs in all files; got {', '.join(parts[0])} in "
                f"{options.parts[0]} and {', '.join(part)} in {path}. Build them alike."
            )
    merged = {}
    for name in parts[0]:
        stats = merge_stats([part[name] for part in parts], force=options.force)
        # Merging rounds, so exact sums no longer are.
        meta = {key: value for key, value in stats.meta.items() if key != "sums"}
        merged[name] = replace(stats, meta=meta)
    _save(options.target, merged)


def _info(options: argparse.Namespace, command: Sequence[str]) -> None:
    require_report(options.json)

    from genmetrics.features.stats_files import load_all_stats

    outputs = load_all_stats(options.source)
    result = {
        "schema": SCHEMA,
        "path": str(options.source),
        "outputs": {name: _describe(stats) for name, stats in outputs.items()},
    }
    table = "\n".join(_rows(name, stats) for name, stats in outputs.items())
    write(document(result, command), table, options.json)


def _describe(stats: "GaussianStats") -> dict[str, Any]:
    from genmetrics.features.stats import provenance

    meta = {key: value for key, value in stats.meta.items() if key != "parts"}
    parts = {"parts": provenance(stats)} if "parts" in stats.meta else {}
    return {
        "n": stats.n,
        "dim": stats.dim,
        "rank_bound": stats.rank_bound,
        "mean_norm": stats.mean.norm().item(),
        "trace": stats.cov.trace().item(),
        "meta": meta,
        **parts,
    }


def _rows(name: str, stats: "GaussianStats") -> str:
    described = _describe(stats)
    values = {key: value for key, value in described.items() if key not in ("meta", "parts")}
    values["n"] = "unknown" if stats.n is None else stats.n
    lines = [f"  {key:<20} {value}" for key, value in (values | described["meta"]).items()]
    parts = [_part_row(place, part) for place, part in enumerate(described.get("parts", ()), 1)]
    return "\n".join([name, *lines, *parts])


def _part_row(place: int, part: dict[str, Any]) -> str:
    told = [f"{part['n']} images"]
    told += [str(part[key]) for key in ("source", "split") if key in part]
    if "source_fingerprint" in part:
        told.append(f"fingerprint {part['source_fingerprint'][:12]}")
    return f"  {f'part {place}':<20} {', '.join(told)}"


def _save(path: Path, outputs: "dict[str, GaussianStats]") -> None:
    from genmetrics.features.stats_files import save_stats

    save_stats(path, outputs)
    counts = {"unknown" if stats.n is None else str(stats.n) for stats in outputs.values()}
    sys.stdout.write(f"{path}: {', '.join(outputs)} of {' or '.join(sorted(counts))} images\n")
