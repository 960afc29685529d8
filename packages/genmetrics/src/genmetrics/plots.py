"""Pictures for a paper: maps of latents by class, and spectra side by side."""

import importlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genmetrics.errors import BadInput, UsageError
from genmetrics.jacobian.result import SpectrumResult

_MAX_LEGEND = 21  # seven colours in three shapes
_STYLE = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "savefig.dpi": 300,
}
# Okabe and Ito's colours, which the colour-blind can tell apart.
_SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_SHAPES = ("o", "^", "s")


def plot_latents(
    coordinates: Float[Tensor, "n 2"],
    file: str | Path,
    *,
    labels: Int[Tensor, " n"] | None = None,
    names: Mapping[int, str] | None = None,
    title: str = "",
) -> None:
    """Draw a map of samples; colour and shape show the class, and a legend names up to 21.

    The colours are Okabe and Ito's, which the colour-blind can tell apart. With more classes there
    is no legend and hue only hints at the class.

    Args:
        coordinates: Where, as :func:`genmetrics.projection.project` returns it.
        file: Picture to write; its suffix is the format (png, pdf, svg).
        labels: Class of each sample; None draws all in one colour.
        names: What the legend calls classes; a class without one is called by its number.
        title: Written above.

    Raises:
        UsageError: If matplotlib is not installed or the file cannot be written.
    """
    plt = pyplot()
    size = min(14.0, max(4.0, 6000 / len(coordinates)))
    x, y = coordinates.cpu().double().numpy().T
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(5.2, 3.8), layout="constrained")
        if labels is None:
            axes.scatter(x, y, s=size, color=_SERIES[0], alpha=0.7, linewidths=0)
        else:
            classes, index = torch.unique(labels.cpu(), return_inverse=True)
            looks = _class_looks(plt, len(classes))
            # In random order, so that no class lies on top of all others.
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
            for shape in dict.fromkeys(look.shape for look in looks):
                rows = [i for i in order.tolist() if looks[index[i]].shape == shape]
                colours = [looks[index[i]].colour for i in rows]
                axes.scatter(
                    x[rows], y[rows], s=size, c=colours, marker=shape, alpha=0.8, linewidths=0
                )
            if len(classes) <= _MAX_LEGEND:
                called = [(names or {}).get(c, str(c)) for c in classes.tolist()]
                _legend(figure, axes, called, looks)
        axes.set(xticks=[], yticks=[])
        _take_literally(axes.set_title(title))
        axes.set_aspect("equal", adjustable="datalim")
        for side in axes.spines.values():
            side.set_visible(False)
        _save(plt, figure, file)


class Extremes(NamedTuple):
    """What :func:`plot_spectra` needs of a spectrum, one number a sample; NaN is left out.

    Args:
        sigma_max: Largest singular value.
        sigma_min: Smallest singular value.
        log10_kappa: Decimal logarithm of the condition number.
    """

    sigma_max: Float[Tensor, " b"]
    sigma_min: Float[Tensor, " b"]
    log10_kappa: Float[Tensor, " b"]


def plot_spectra(spectra: Mapping[str, SpectrumResult | Extremes], file: str | Path) -> None:
    """Draw histograms of the largest and smallest singular value and of the condition number.

    All on decimal logarithms, with the same bins for every model and its median as a dashed line.
    Each histogram is of the share of the samples that have a number.

    Args:
        spectra: Results by the name of their model, at most 7.
        file: Picture to write; its suffix is the format (png, pdf, svg).

    Raises:
        UsageError: If matplotlib is not installed or the file cannot be written.
        BadInput: If there are no models, or more than can be told apart.
    """
    if not 1 <= len(spectra) <= len(_SERIES):
        raise BadInput(
            f"Expected 1 to {len(_SERIES)} models in a picture; got {len(spectra)}. Draw fewer."
        )
    plt = pyplot()
    panels: tuple[tuple[str, Callable[[SpectrumResult | Extremes], Tensor]], ...] = (
        (r"$\log_{10}\,\sigma_{\max}$", lambda s: torch.log10(s.sigma_max)),
        (r"$\log_{10}\,\sigma_{\min}$", lambda s: torch.log10(s.sigma_min)),
        (r"$\log_{10}\,\kappa$", lambda s: s.log10_kappa),
    )
    with plt.rc_context(_STYLE):
        figure, row = plt.subplots(1, 3, figsize=(6.8, 2.2), layout="constrained", sharey=True)
        for axes, (label, quantity) in zip(row, panels, strict=True):
            _histograms(axes, [quantity(s).cpu().double() for s in spectra.values()])
            axes.set_xlabel(label)
        row[0].set_ylabel("share of samples")
        handles = [
            plt.Rectangle((0, 0), 1, 1, facecolor=colour, edgecolor=colour)
            for colour in _SERIES[: len(spectra)]
        ]
        labels = [f"{name} ({_count(spectrum)})" for name, spectrum in spectra.items()]
        legend = figure.legend(
            handles, labels, loc="outside upper center", ncols=min(len(labels), 4), handlelength=1.0
        )
        _take_literally(*legend.get_texts())
        _save(plt, figure, file)


def _histograms(axes: Any, values: list[Float[Tensor, " b"]]) -> None:
    values = [v[torch.isfinite(v)] for v in values]
    known = torch.cat(values)
    if not len(known):
        axes.text(0.5, 0.5, "unresolved", transform=axes.transAxes, ha="center", va="center")
        axes.set(xticks=[])
        return
    low, high = known.min().item(), known.max().item()
    margin = max(0.05 * (high - low), 0.01)
    num_bins = min(40, max(8, 2 * math.isqrt(max(len(v) for v in values))))
    edges = torch.linspace(low - margin, high + margin, num_bins + 1).tolist()
    for colour, v in zip(_SERIES, values, strict=False):
        if len(v):
            weights = [1 / len(v)] * len(v)
            style = {"bins": edges, "weights": weights, "color": colour}
            axes.hist(v.tolist(), histtype="stepfilled", alpha=0.3, linewidth=0, **style)
            axes.hist(v.tolist(), histtype="step", linewidth=1.0, **style)
            axes.axvline(v.quantile(0.5).item(), color=colour, linestyle="--", linewidth=0.9)


def _count(spectrum: SpectrumResult | Extremes) -> str:
    count, known = len(spectrum.sigma_max), int(torch.isfinite(spectrum.sigma_min).sum())
    return f"n = {count}" if known == count else f"n = {count}, {count - known} unresolved"


class _Look(NamedTuple):
    """How the samples of a class are drawn."""

    colour: Any
    shape: str


def _class_looks(plt: Any, count: int) -> list[_Look]:
    """Return as many looks as there are classes, all different while a legend names them."""
    if count <= _MAX_LEGEND:
        return [_Look(colour, shape) for shape in _SHAPES for colour in _SERIES][:count]
    return [_Look(plt.get_cmap("hsv")(i / count), _SHAPES[0]) for i in range(count)]


def _legend(figure: Any, axes: Any, names: Sequence[str], looks: Sequence[_Look]) -> None:
    handles = [
        axes.scatter([], [], s=16, color=look.colour, marker=look.shape, linewidths=0)
        for look in looks
    ]
    columns = 1 if len(names) <= 14 else 2
    legend = figure.legend(
        handles,
        names,
        loc="outside right center",
        ncols=columns,
        fontsize=7,
        handletextpad=0.1,
        labelspacing=0.35,
        columnspacing=0.8,
    )
    _take_literally(*legend.get_texts())


def _take_literally(*texts: Any) -> None:
    """Show names as they are: dollar signs are no formula, and bytes without a letter are told."""
    for text in texts:
        letters = text.get_text().encode(errors="backslashreplace").decode()
        text.set(text=letters, parse_math=False)


def pyplot() -> Any:
    """Return pyplot, drawing into files and not on a screen.

    Raises:
        UsageError: If matplotlib is not installed.
    """
    try:
        importlib.import_module("matplotlib").use("Agg")
        return importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise UsageError(
            f"Expected the package matplotlib; got '{error}'. Install genmetrics[plot]."
        ) from error


def _save(plt: Any, figure: Any, file: str | Path) -> None:
    try:
        with warnings.catch_warnings():  # a box stands for what no font here has, such as Chinese
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(file)
    except (OSError, ValueError) as error:  # ValueError is an unknown suffix
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"Expected a writable picture (png, pdf, svg); got '{reason}'. Choose another file."
        ) from error
    finally:
        plt.close(figure)
