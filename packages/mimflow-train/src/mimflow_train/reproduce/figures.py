"""Figures of the paper: maps of latents, spectra of flows, probes over their depth."""

import importlib.util
import math
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

from genmetrics import (
    ProbeData,
    SpectrumResult,
    knn_accuracy,
    plot_latents,
    plot_spectra,
    project,
)
from genmetrics.projection import Projection
from mimflow_train.data.images import Split
from mimflow_train.evaluation.class_probe import (
    ClassProbe,
    encode_means,
    enough_to_probe,
    probe_classes,
)
from mimflow_train.evaluation.reconstruction import encode
from mimflow_train.evaluation.scores import flow_spectrum
from mimflow_train.evaluation.selection import evenly, spread
from mimflow_train.reproduce.design import Experiment, Variant
from mimflow_train.reproduce.outcome import Column, Outcome, Row
from mimflow_train.reproduce.pictures import draw_depths
from mimflow_train.reproduce.rows import measure_row
from mimflow_train.reproduce.session import Session
from mimflow_train.reproduce.trained import Trained

__all__ = ["map_latents", "probe_depths", "spectra"]

_MAPPED = 2000
_MAPPED_CLASSES = 20  # a legend names 21
_NEIGHBOURS = 20
_LEAST_FOR_UMAP = 100
_SPECTRA = 32


def map_latents(session: Session, name: str, experiment: Experiment) -> Outcome:
    """Map each row's latents to the plane, and classify them by their neighbours.

    Args:
        session: What to do it with.
        name: The experiment's folder.
        experiment: The rows.
    """
    folder, split = session.out / name, session.data.held_out
    classes = spread(len(session.data.class_names), _MAPPED_CLASSES)
    found = torch.isin(split.labels, classes).nonzero().flatten()
    chosen = found[spread(len(found), _MAPPED)].tolist()
    umap = importlib.util.find_spec("umap") is not None and not session.quick
    method: Projection = "umap" if umap and len(chosen) >= _LEAST_FOR_UMAP else "pca"
    pictures: dict[str, str] = {}

    def measure_run(variant: Variant, run: Trained) -> dict[str, float]:
        latents = _latents(run, split, chosen)
        if variant.label not in pictures:
            picture = f"{variant.label.lower().replace(' ', '-')}.png"
            _draw(session, latents, chosen, method, folder / picture, variant.label)
            pictures[variant.label] = picture
        known = ProbeData(latents, split.labels[chosen])
        return {"knn": _neighbours(session, run, known, classes)}

    rows = tuple(
        measure_row(session, experiment, each, partial(measure_run, each))
        for each in experiment.variants
    )
    column = Column(
        key="knn", paper="map", ours=f"accuracy of {_NEIGHBOURS} nearest neighbours", digits=3
    )
    counts = (
        f"{len(chosen)} held-out images of {len(classes)} classes, whole and without noise, their "
        f"neighbours among up to {_MAPPED} training images of the same classes (all of these where "
        f"there are fewer than {_NEIGHBOURS}); maps by {method}, "
        f"of each row's first seed; chance 1/{len(classes)}"
    )
    shown = tuple(pictures.values())
    return Outcome(columns=(column,), rows=rows, counts=counts, pictures=shown)


def _latents(run: Trained, split: Split, chosen: Sequence[int]) -> Float[Tensor, "b f"]:
    mean = encode_means(run.model, split, chosen).mean
    return rearrange(mean.float().cpu(), "b k d -> b (k d)")


def _neighbours(
    session: Session, run: Trained, unseen: ProbeData, classes: Int64[Tensor, " c"]
) -> float:
    split = session.data.train
    seen = evenly(split, classes, _MAPPED, run.config.seed)
    train = ProbeData(_latents(run, split, seen), split.labels[seen])
    return knn_accuracy(train, unseen, min(_NEIGHBOURS, len(seen))).top1


def _draw(
    session: Session,
    latents: Float[Tensor, "b f"],
    chosen: Sequence[int],
    method: Projection,
    path: Path,
    title: str,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = dict(enumerate(session.data.class_names))
    places = project(latents, method=method)
    labels = session.data.held_out.labels[list(chosen)]
    plot_latents(places, path, labels=labels, names=names, title=f"{title}, {method}")


def spectra(session: Session, name: str, experiment: Experiment) -> Outcome:
    """Find both ends of the spectrum of each row's flow at held-out latents.

    Args:
        session: What to do it with.
        name: The experiment's folder.
        experiment: The rows.
    """
    split = session.data.held_out
    chosen = spread(len(split.labels), 2 if session.quick else _SPECTRA).tolist()
    found: dict[str, SpectrumResult] = {}

    def measure_run(variant: Variant, run: Trained) -> dict[str, float]:
        result = flow_spectrum(
            run.model.flow,
            encode(run.model, run.config, split.stack(chosen), "reproduce spectra").z,
        )
        found.setdefault(variant.label, result)
        return spectrum_numbers(result)

    rows = tuple(
        measure_row(session, experiment, each, partial(measure_run, each))
        for each in experiment.variants
    )
    pictures: tuple[str, ...] = ()
    if found:
        pictures = (f"{name}.png",)
        (session.out / name).mkdir(parents=True, exist_ok=True)
        plot_spectra(found, session.out / name / pictures[0])
    counts = (
        f"N = {len(chosen)} held-out latents, hidden in part as in training, no class; where the "
        "smallest singular value is below what float64 resolves, it counts as 0 and kappa as "
        "infinite in medians and ranges, and is left out of the picture, which is of each row's "
        "first seed"
    )
    return Outcome(columns=_SPECTRUM_COLUMNS, rows=rows, counts=counts, pictures=pictures)


_SPECTRUM_COLUMNS = tuple(
    Column(key=key, paper="", ours=ours, digits=digits)
    for key, ours, digits in (
        ("log10_sigma_max", "log10 sigma_max, median", 3),
        ("log10_sigma_min", "log10 sigma_min, median", 3),
        ("log10_sigma_min_range", "log10 sigma_min, quartile to quartile", 3),
        ("log10_kappa", "log10 kappa, median", 3),
        ("log10_kappa_range", "log10 kappa, quartile to quartile", 3),
        ("resolved", "share resolved", 3),
        ("converged", "share converged", 3),
    )
)


def spectrum_numbers(result: SpectrumResult) -> dict[str, float]:
    """Return medians and quartile ranges over the samples; what is unresolved counts as the worst.

    Args:
        result: Both ends at each sample.
    """
    sigma_min = result.sigma_min.nan_to_num(nan=0.0).log10()
    kappa = result.log10_kappa.nan_to_num(nan=math.inf)
    return {
        "log10_sigma_max": _median(result.sigma_max.log10()),
        "log10_sigma_min": _median(sigma_min),
        "log10_sigma_min_range": _quartile_range(sigma_min),
        "log10_kappa": _median(kappa),
        "log10_kappa_range": _quartile_range(kappa),
        "resolved": float(result.resolved.double().mean()),
        "converged": float(result.converged.double().mean()),
    }


def _median(values: Float[Tensor, " b"]) -> float:
    return float(statistics.median(values.tolist()))


def _quartile_range(values: Float[Tensor, " b"]) -> float:
    """Return how far the quartiles are apart, infinite if one of them is."""
    low = values.quantile(0.25, interpolation="lower")
    high = values.quantile(0.75, interpolation="higher")
    return float((high - low).nan_to_num(nan=math.inf, posinf=math.inf))


def probe_depths(session: Session, name: str, experiment: Experiment) -> Outcome:
    """Probe the class at every stage of one run's encoder and flow.

    Args:
        session: What to do it with.
        name: The experiment's folder.
        experiment: One row, the run.
    """
    variant, probes = experiment.variants[0], list[ClassProbe]()

    def measure_run(run: Trained) -> dict[str, float]:
        learn = enough_to_probe(len(session.data.class_names))
        probes.append(probe_classes(run.model, run.config, session.data, learn))
        return probes[-1].accuracy

    row = measure_row(session, experiment, variant, measure_run)
    labels = _stage_labels(list(row.ours), experiment)
    rows = tuple(
        Row(
            label=label,
            paper=variant.paper if label == variant.label else {},
            ours={"accuracy": row.ours[stage]} if stage in row.ours else {},
            why_not=row.why_not,
            diverged=row.diverged,
            overflowed=row.overflowed,
            runs=row.runs,
        )
        for stage, label in labels.items()
    )
    pictures: tuple[str, ...] = ()
    counts = f"{len(session.seeds)} seed(s)"
    if probes:
        curves = [
            {stage: value for stage, value in probe.accuracy.items() if "features" not in stage}
            for probe in probes
        ]
        pictures = (f"{name}.png",)
        draw_depths(curves, probes[0].chance, session.out / name / pictures[0])
        counts = (
            f"probes of {probes[0].n_train} training images, tested on {probes[0].n_held_out} "
            f"held-out ones; chance {probes[0].chance:.3f}; {counts}"
        )
    column = Column(key="accuracy", paper="Acc.", ours="accuracy, mean over classes", digits=3)
    return Outcome(columns=(column,), rows=rows, counts=counts, pictures=pictures)


def _stage_labels(stages: Sequence[str], experiment: Experiment) -> dict[str, str]:
    """Return the stages' names, of which the last has that of the experiment's last row."""
    if not stages:
        return {each.label: each.label for each in experiment.variants}
    return {each: each for each in stages} | {stages[-1]: experiment.variants[-1].label}
