"""Figures of ``diagnostics.json``: base noise, flow by depth, latents; and the flow's spectrum."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mimflow_train.report.curves import as_png, quiet
from mimflow_train.report.page import figure, missing, note, table
from mimflow_train.report.tables import number

__all__ = ["flow_section", "latents_section", "spectrum_section"]

_NAMES = {
    "train": "training images",
    "held_out": "held-out images",
    "held_out_no_class": "held-out images, class not told",
    "samples": "the flow's own samples",
}
_REMEDY = "`mimflow-train` writes diagnostics.json when a run ends."


def flow_section(diagnostics: Mapping[str, Any]) -> str:
    """Show the flow from inside.

    Args:
        diagnostics: ``diagnostics.json``; empty if there is none.
    """
    if not diagnostics:
        return missing("Diagnostics of the flow", _REMEDY)
    base, depth = diagnostics["base"], diagnostics["depth"]
    parts = [
        _likelihood(diagnostics),
        '<div class="flow">',
        figure(
            _histogram(base),
            f"All entries of u = flow(z), N = {base['n']} held-out images, and N(0, 1). Good: "
            f"bars on the line. Kolmogorov-Smirnov distance {base['ks']:.3f} (0 is perfect), "
            f"mean absolute correlation of two dimensions {base['correlation']:.3f}.",
        ),
        figure(
            _moments(base),
            f"Mean and standard deviation of u by token and by dimension, N = {base['n']}. Good: "
            "every mean near 0 and every standard deviation near 1.",
        ),
        figure(
            _depth(depth, diagnostics["nll_floor"]),
            f"NLL if the flow ended after so many blocks, N = {depth['n']}, and each block's own "
            "share (mean log-scale). Good: the line falls at every block and stays above the "
            "floor. Where it is level, a block does nothing.",
        ),
        figure(
            _tokens(depth),
            f"NLL by token, N = {depth['n']}. Good: about level. Tokens far above the others are "
            "those that the flow predicts least; half of the blocks pass the first unchanged, the "
            "other half the last.",
        ),
        "</div>",
    ]
    return "\n".join(parts)


def latents_section(diagnostics: Mapping[str, Any], class_names: tuple[str, ...]) -> str:
    """Show the encoder's output: a map, how it is spread, and where the class can be read off.

    Args:
        diagnostics: ``diagnostics.json``; empty if there is none.
        class_names: Name of each class number.
    """
    if not diagnostics:
        return missing("Diagnostics of the latents", _REMEDY)
    latents, probe = diagnostics["latents"], diagnostics["probe"]
    statistics = latents["statistics"]
    parts = [
        '<div class="flow">',
        figure(
            _map(latents, class_names),
            f"Noiseless latents on their first two principal components, N = {latents['n']} "
            "held-out images, hidden in part. Good: classes form regions of their own; one line "
            "or one clump means that few directions are used.",
        ),
        figure(
            _deviations(latents),
            f"Deviation of each latent dimension, largest first, N = {latents['n']}. Good: all "
            f"well above the noise (line). {statistics['dead_share']:.1%} of all entries hardly "
            f"vary between images; effective rank {statistics['effective_rank']:.1f}; mean "
            f"absolute correlation of two dimensions {latents['correlation']:.3f}.",
        ),
    ]
    if probe is not None:
        words = (
            "Linear probes of the class on tokens pooled to their mean, whole images, no noise, "
            f"class not told to the flow; N = {probe['n_train']} training and "
            f"{probe['n_held_out']} held-out images. Good: far above chance (line), and no "
            "lower after the flow than before it (paper, Fig. 6)."
        )
        parts.append(figure(_probe(probe), words))
    return "\n".join([*parts, "</div>"])


def spectrum_section(scores: Mapping[str, Any]) -> str:
    """Show the ends of the spectrum of the flow's Jacobian, as the paper's Fig. 5 does.

    Args:
        scores: ``eval/scores.json``; empty if there is none.
    """
    spectrum = scores.get("spectrum")
    if not spectrum:
        return missing("Spectrum of the flow's Jacobian", "`mimflow-eval RUN --spectra 8` adds it.")
    return figure(
        _spectrum(spectrum),
        "Largest and smallest singular value of the flow's Jacobian and their ratio, at "
        f"{spectrum['n']} held-out latents of {spectrum['dim']} dimensions, "
        f"{spectrum['resolved']} resolved. Good: a small condition number, with little spread; "
        "far above 10^7 the inverse loses all digits of float32.",
    )


def _likelihood(diagnostics: Mapping[str, Any]) -> str:
    rows = [
        (title, f"{each['mean']:.4f}", number(each["standard_error"]), str(each["n"]))
        for name, title in _NAMES.items()
        for each in [diagnostics["likelihood"][name]]
    ]
    rows.append(
        ("floor, the entropy of the latent noise", f"{diagnostics['nll_floor']:.4f}", "", "")
    )
    head = ("NLL per latent dimension, nats", "mean", "standard error", "N")
    words = (
        "Good: held-out images no worse than training ones, and near the flow's own samples, "
        "whose NLL is its entropy. There and back through the flow the largest difference is "
        f"{diagnostics['inversion_error']:.1e} (N = {diagnostics['num_inverted']}); good is below "
        "1e-3."
    )
    return table(head, rows) + note(words)


def _panel() -> tuple[Figure, Axes]:
    drawing = Figure(figsize=(5.4, 2.9), layout="constrained")
    axes = drawing.add_subplot()
    quiet(axes)
    return drawing, axes


def _finished(drawing: Figure, axes: Axes, across: str, up: str) -> bytes:
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(up, fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    return as_png(drawing)


def _file_of(draw: Callable[[Path], object]) -> bytes:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "picture.png"
        draw(file)
        return file.read_bytes()


def _histogram(base: Mapping[str, Any]) -> bytes:
    drawing, axes = _panel()
    edges = base["edges"]
    axes.stairs(base["density"], edges, fill=True, alpha=0.4, label="u")
    normal = [math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi) for x in edges]
    axes.plot(edges, normal, color="black", linewidth=1, label="N(0, 1)")
    return _finished(drawing, axes, "u", "density")


def _moments(base: Mapping[str, Any]) -> bytes:
    drawing = Figure(figsize=(5.4, 2.9), layout="constrained")
    for place, along in enumerate(("token", "dim"), 1):
        axes = drawing.add_subplot(1, 2, place)
        quiet(axes)
        for name, level in (("mean", 0), ("std", 1)):
            axes.plot(base[f"{name}_by_{along}"], marker=".", linewidth=0.8)
            axes.axhline(level, color="grey", linewidth=0.7, linestyle=":")
        axes.set_xlabel({"token": "token", "dim": "dimension"}[along], fontsize=9)
        axes.set_ylim(min(-0.3, *axes.get_ylim()), max(1.3, *axes.get_ylim()))
    lines = drawing.axes[0].get_lines()[::2]
    drawing.legend(
        lines, ["mean", "std"], loc="outside upper right", ncols=2, frameon=False, fontsize=8
    )
    return as_png(drawing)


def _depth(depth: Mapping[str, Any], floor: float) -> bytes:
    drawing, axes = _panel()
    axes.bar(
        range(1, len(depth["nll"])), depth["log_scale"], 0.5, alpha=0.4, label="log-scale of block"
    )
    axes.plot(depth["nll"], marker=".", color="black", linewidth=1, label="NLL so far")
    axes.axhline(floor, color="grey", linewidth=0.7, linestyle=":", label="floor")
    axes.set_xticks(range(len(depth["nll"])))
    return _finished(drawing, axes, "blocks", "nats per dimension")


def _tokens(depth: Mapping[str, Any]) -> bytes:
    drawing, axes = _panel()
    axes.bar(range(len(depth["nll_by_token"])), depth["nll_by_token"], alpha=0.6)
    axes.axhline(depth["nll"][-1], color="black", linewidth=0.8, label="mean")
    return _finished(drawing, axes, "token", "nats per dimension")


def _map(latents: Mapping[str, Any], class_names: tuple[str, ...]) -> bytes:
    from genmetrics import plot_latents

    places, labels = torch.tensor(latents["places"]), torch.tensor(latents["labels"])
    names = dict(enumerate(class_names))
    return _file_of(lambda file: plot_latents(places, file, labels=labels, names=names))


def _deviations(latents: Mapping[str, Any]) -> bytes:
    drawing, axes = _panel()
    axes.bar(range(len(latents["std_by_dim"])), latents["std_by_dim"], alpha=0.6)
    axes.axhline(latents["sigma"], color="black", linewidth=0.8, label="noise of training")
    return _finished(drawing, axes, "dimension, by rank", "standard deviation")


def _probe(probe: Mapping[str, Any]) -> bytes:
    drawing, axes = _panel()
    names, values = list(probe["accuracy"]), list(probe["accuracy"].values())
    axes.barh(names, values, alpha=0.6)
    axes.invert_yaxis()
    axes.axvline(probe["chance"], color="black", linewidth=0.8, label="chance")
    axes.set_xlabel("accuracy on held-out images, mean over classes", fontsize=9)
    axes.set_xlim(0, 1)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return as_png(drawing)


def _spectrum(spectrum: Mapping[str, Any]) -> bytes:
    from genmetrics import plot_spectra
    from genmetrics.plots import Extremes

    def column(name: str) -> torch.Tensor:
        values = [each[name] for each in spectrum["samples"]]
        return torch.tensor([math.nan if value is None else value for value in values])

    extremes = Extremes(column("sigma_max"), column("sigma_min"), column("log10_kappa"))
    return _file_of(lambda file: plot_spectra({"flow": extremes}, file))
