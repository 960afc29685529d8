"""Runs side by side on one page: scores, what differs in their configurations, curves, samples."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mimflow_train.config.file import read_config, to_dict
from mimflow_train.report.curves import names_of, panels
from mimflow_train.report.page import figure, missing, note, page, picture, table, write
from mimflow_train.report.tables import ABOUT, flat, number
from mimflow_train.storage.files import read_json, read_reports

__all__ = ["write_comparison"]

_WIDEST_CELL = 60  # characters


def write_comparison(runs: Sequence[Path], path: Path) -> Path:
    """Write one page about several runs.

    Args:
        runs: Their folders, two or more, finished or not.
        path: The page.

    Raises:
        ConfigError: If one of them is no run.
        StorageError: If the page cannot be written.
    """
    configs = {str(run): flat(to_dict(read_config(run))) for run in runs}
    summaries = {str(run): read_json(run / "summary.json") for run in runs}
    found = {str(run): read_json(run / "diagnostics.json") for run in runs}
    sections = [
        ("Scores", _scores(summaries)),
        ("Diagnostics", _diagnostics(found)),
        ("Differences of the configurations", _differences(configs)),
        ("Curves", _curves({str(run): read_reports(run) for run in runs})),
        ("Samples", _samples(runs)),
    ]
    return write(page("MIMFlow: runs side by side", ", ".join(configs), sections), path)


def _scores(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    values = {run: _numbers(summary) for run, summary in summaries.items()}
    if not any(values.values()):
        return missing("Scores", "They come when a run ends.")
    sizes = {each["num_images"] for each in values.values() if "num_images" in each}
    words = "fd_efflite0 is not FID: compare it only with itself, at the same N."
    if len(sizes) > 1:
        words += " Here N differs: these distances cannot be compared."
    return _by_run(values, ABOUT) + note(words)


def _diagnostics(found: Mapping[str, Mapping[str, Any]]) -> str:
    values = {run: _key_numbers(each) if each else {} for run, each in found.items()}
    if not any(values.values()):
        return missing("Diagnostics", "`mimflow-train` writes them when a run ends.")
    return _by_run(values, {})


def _key_numbers(diagnostics: Mapping[str, Any]) -> dict[str, int | float]:
    base, latents, probe = (diagnostics[name] for name in ("base", "latents", "probe"))
    nll = diagnostics["likelihood"]["held_out"]["mean"]
    return {
        "NLL per dimension above its floor, held-out images": nll - diagnostics["nll_floor"],
        "Kolmogorov-Smirnov distance of u from N(0, 1)": base["ks"],
        "N of both": base["n"],
        "largest difference, flow and back": diagnostics["inversion_error"],
        "N of it": diagnostics["num_inverted"],
        "effective rank of the latents": latents["statistics"]["effective_rank"],
        **(_probe_numbers(probe) if probe else {}),  # a run of one class has none
    }


def _probe_numbers(probe: Mapping[str, Any]) -> dict[str, int | float]:
    return {
        **{f"probe accuracy, {name}": value for name, value in probe["accuracy"].items()},
        "training images of the probe": probe["n_train"],
        "held-out images of the probe": probe["n_held_out"],
    }


def _differences(configs: Mapping[str, Mapping[str, Any]]) -> str:
    names = dict.fromkeys(name for config in configs.values() for name in config)
    rows = []
    for name in names:
        cells = [json.dumps(each[name]) if name in each else "" for each in configs.values()]
        if len(set(cells)) > 1:
            rows.append([name, *map(_in_short, cells)])
    if not rows:
        return note("None: these are configurations of the same run.")
    return table(["", *configs], rows)


def _in_short(cell: str) -> str:
    """Return the beginning of what would make a column wider than the page."""
    return cell if len(cell) <= _WIDEST_CELL else f"{cell[:_WIDEST_CELL]}..."


def _curves(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    names = {run: names_of(reports) for run, reports in runs.items()}
    first, *others = names.values()
    shared = {name: name for name in first if all(name in other for other in others)}
    if not shared:
        return missing("Curves that all of them have")
    return figure(panels(runs, shared), "What all of these runs reported, over steps.", wide=True)


def _samples(runs: Sequence[Path]) -> str:
    figures = [picture(run / "samples.png", f"{run}: one row for each class.") for run in runs]
    return "\n".join(['<div class="flow">', *figures, "</div>"])


def _numbers(summary: Mapping[str, Any]) -> dict[str, int | float]:
    return {name: each for name, each in summary.items() if not isinstance(each, Mapping)}


def _by_run(values: Mapping[str, Mapping[str, int | float]], about: Mapping[str, str]) -> str:
    """Return a table with a row for each quantity and a column for each run."""
    names = dict.fromkeys(name for each in values.values() for name in each)
    rows = [
        [about.get(name, name), *(number(each.get(name)) for each in values.values())]
        for name in names
    ]
    return table(["", *values], rows)
