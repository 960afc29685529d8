"""Pictures of reports: what every row scored with every seed, and accuracy by depth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from mimflow_train.reproduce.outcome import Column, Row

__all__ = ["draw_depths", "draw_rows"]

_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#666666"
_STYLE: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 150,
}


def draw_rows(rows: Sequence[Row], column: Column, path: Path) -> None:
    """Draw one dot for each seed and a bar at their mean, a line for each row that was run.

    Args:
        rows: The lines.
        column: The quantity.
        path: The PNG; its folder is made.
    """
    found = [row for row in rows if row.numbers(column.key)]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6, 1.0 + 0.32 * max(1, len(found))), layout="constrained")
        axes = figure.subplots()
        for place, row in enumerate(found):
            values = row.numbers(column.key)
            axes.plot(values, [place] * len(values), "o", color=_BLUE, markersize=4)
            axes.plot(sum(values) / len(values), place, "|", color=_ORANGE, markersize=14)
        axes.set_yticks(range(len(found)), [row.label for row in found])
        axes.set(ylim=(len(found) - 0.5, -0.5), xlabel=f"{column.ours} (| mean over seeds)")
        axes.grid(axis="x", linewidth=0.3)
        _save(figure, path)


def draw_depths(curves: Sequence[Mapping[str, float]], chance: float, path: Path) -> None:
    """Draw accuracy over depth, a line for each seed.

    Args:
        curves: Accuracy by stage, in order.
        chance: What guessing reaches.
        path: The PNG; its folder is made.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 2.8), layout="constrained")
        axes = figure.subplots()
        for curve in curves:
            axes.plot(range(len(curve)), list(curve.values()), "o-", color=_BLUE, markersize=4)
        axes.axhline(chance, color=_GREY, linestyle="--", linewidth=0.9)
        axes.annotate("chance", (0, chance), textcoords="offset points", xytext=(0, 3))
        axes.set_xticks(range(len(curves[0])), list(curves[0]), rotation=30, ha="right")
        axes.set(ylabel="accuracy of a linear probe", ylim=(0, None))
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
