"""What a run reported on its way: curves of the losses and of its health."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from mimflow_train.config import TrainConfig
from mimflow_train.report.page import figure, missing

__all__ = ["as_png", "curves", "health", "names_of", "panels", "quiet"]

_NOT_TERMS = ("step", "time")
_HEALTH = {
    "gradient_norm": "gradient norm",
    "rate_bits": "rate, bits an image",
    "images_per_second": "images a second",
    "steps_per_second": "steps a second",
    "data_wait": "share of time waiting for data",
    "learning_rate": "learning rate",
    "skipped_steps": "skipped steps",
    "cuda_memory_gib": "most memory on the GPU, GiB",
    "process_memory_gib": "most memory, GiB",
    "mfu": "share of the GPU's peak (MFU)",
}
_COLUMNS = 3


def curves(reports: Sequence[Mapping[str, Any]], config: TrainConfig) -> str:
    """Draw every loss term over the steps, the end of the joint phase as a line.

    Args:
        reports: What was reported, by step.
        config: The run.
    """
    names = [name for name in names_of(reports) if name not in _HEALTH]
    if not names:
        return missing("Curves")
    return figure(
        panels({"run": reports}, {name: name for name in names}, _mark(reports, config)),
        "Unweighted terms over the steps; rate is the NLL above its floor, the entropy of the "
        "latent noise. Good: pixel, perceptual and feature terms fall and level off, the rate "
        "falls and stays well above 0, where the latents would carry nothing.",
        wide=True,
    )


def health(reports: Sequence[Mapping[str, Any]], config: TrainConfig) -> str:
    """Draw what tells whether a run is in good health: speed, gradients, bits, skipped steps.

    Args:
        reports: What was reported, by step.
        config: The run.
    """
    present = names_of(reports)
    titles = {name: title for name, title in _HEALTH.items() if name in present}
    if not titles:
        return missing("Health")
    return figure(
        panels({"run": reports}, titles, _mark(reports, config)),
        "Good: the gradient norm settles without spikes; the rate, the most that the latents tell "
        "of an image, stays above 0; images a second are level; no step is skipped, and almost no "
        "time is spent waiting for data.",
        wide=True,
    )


def quiet(axes: Axes) -> None:
    """Take the frame off, so that only the data is seen."""
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def as_png(drawing: Figure) -> bytes:
    """Return a figure as a PNG file."""
    file = io.BytesIO()
    drawing.savefig(file, format="png", dpi=110)
    return file.getvalue()


def names_of(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what was reported, in the order in which it first came."""
    names = dict.fromkeys(name for each in reports for name in each)
    return [name for name in names if name not in _NOT_TERMS]


def panels(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], titles: Mapping[str, str], joint_steps: int = 0
) -> bytes:
    """Draw one panel for each quantity, with one curve for each run that reported it.

    Args:
        runs: Reports by the name of their run.
        titles: What to write above the panel of each quantity.
        joint_steps: Where to draw the end of the joint phase; 0 for nowhere.
    """
    rows = -(-len(titles) // _COLUMNS)
    layout = ConstrainedLayoutEngine(h_pad=0.1)  # inches; or titles touch the axis above
    drawing = Figure(figsize=(11, 2.3 * rows), layout=layout)
    for number, (name, title) in enumerate(titles.items()):
        axes = drawing.add_subplot(rows, _COLUMNS, number + 1)
        for run, reports in runs.items():
            points = [(each["step"], _finite(each[name])) for each in reports if name in each]
            marker = "." if len(points) < 3 else ""
            axes.plot(*zip(*points, strict=True), linewidth=1, marker=marker, label=run)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_title(title, fontsize=10)
        quiet(axes)
        if joint_steps:
            axes.axvline(joint_steps, color="grey", linewidth=0.7, linestyle=":")
    if len(runs) > 1:
        handles = drawing.axes[0].get_lines()[: len(runs)]
        drawing.legend(handles, list(runs), loc="outside upper left", ncols=4, frameon=False)
    return as_png(drawing)


def _finite(value: float | None) -> float:
    return math.nan if value is None else value


def _mark(reports: Sequence[Mapping[str, Any]], config: TrainConfig) -> int:
    """Return where the joint phase ended, 0 as long as it goes on."""
    return config.steps if reports[-1]["step"] > config.steps else 0
