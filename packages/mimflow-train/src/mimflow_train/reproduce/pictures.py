"""Pictures of reports: rows by score or cost, growth with tokens, accuracy by depth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from mimflow_train.reproduce.outcome import Column, Row

__all__ = ["draw_columns", "draw_depths", "draw_growth", "draw_rows"]

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


def draw_columns(rows: Sequence[Row], columns: Sequence[Column], path: Path) -> None:
    """Draw a panel for each quantity, with a bar for each row that was run.

    Args:
        rows: The lines, of one number each.
        columns: The quantities.
        path: The PNG; its folder is made.
    """
    found = [row for row in rows if row.ours]
    with mpl.rc_context(_STYLE):
        size = (1.8 + 1.9 * len(columns), 0.8 + 0.32 * max(1, len(found)))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axes, column in zip(panels, columns, strict=True):
            values = [row.ours[column.key][0] for row in found]
            bars = axes.barh(range(len(found)), values, height=0.6, color=_BLUE)
            axes.bar_label(bars, [f"{value:.{column.digits}f}" for value in values], padding=2)
            axes.set(xlabel=column.ours, xlim=(0, 1.35 * max(values, default=1)))
        panels[0].set_yticks(range(len(found)), [row.label for row in found])
        panels[0].invert_yaxis()
        _save(figure, path)


def draw_growth(rows: Sequence[Row], columns: Sequence[Column], path: Path) -> None:
    """Draw costs over the number of tokens, both as multiples of the first row's.

    Args:
        rows: The lines, of one number each.
        columns: The number of tokens, then the costs.
        path: The PNG; its folder is made.
    """
    found = [row for row in rows if row.ours]
    tokens, *costs = ([row.ours[each.key][0] for row in found] for each in columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.2, 2.8), layout="constrained")
        axes = figure.subplots()
        for column, values, mark in zip(columns[1:], costs, "osd^", strict=False):
            times = [each / values[0] for each in values]
            axes.loglog(tokens, times, f"{mark}-", label=column.ours.partition(",")[0])
        times = [each / tokens[0] for each in tokens]
        axes.loglog(tokens, times, "--", color=_GREY, label="in proportion")
        axes.set_xticks(tokens, [f"{each:.0f}" for each in tokens], minor=False)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.set(xlabel="latent tokens", ylabel=f"times that of {tokens[0]:.0f} tokens")
        axes.legend(frameon=False)
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
