"""Figures of the paper: maps of latents, spectra of flows, probes over their depth."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
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
from mim_encoder import MaskRatio, random_mask
from mimflow_train.class_probe import encode_means, probe_classes
from mimflow_train.data.images import Split
from mimflow_train.reconstruction import encode, same_classes, spread
from mimflow_train.reproduce.design import Experiment
from mimflow_train.reproduce.outcome import Column, Outcome, Row
from mimflow_train.reproduce.pictures import draw_depths
from mimflow_train.reproduce.session import Session
from mimflow_train.reproduce.tables import train_row
from mimflow_train.reproduce.trained import Trained
from mimflow_train.scores import flow_spectrum

__all__ = ["map_latents", "probe_depths", "spectra"]

_MAPPED = 2000
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
    chosen = spread(len(split.labels), _MAPPED).tolist()
    umap = importlib.util.find_spec("umap") is not None and not session.quick
    method: Projection = "umap" if umap and len(chosen) >= _LEAST_FOR_UMAP else "pca"
    rows, pictures = [], []
    for variant in experiment.variants:
        accuracy = []
        for seed in session.seeds:
            run = train_row(session, experiment, variant, seed)
            latents = _latents(run, split, chosen)
            accuracy.append(_neighbours(session, run, latents, chosen))
            if seed == session.seeds[0]:
                picture = f"{variant.label.lower().replace(' ', '-')}.png"
                _draw(session, latents, chosen, method, folder / picture, variant.label)
                pictures.append(picture)
        rows.append(Row(label=variant.label, paper=variant.paper, ours={"knn": accuracy}))
    column = Column(
        key="knn", paper="map", ours=f"accuracy of {_NEIGHBOURS} nearest neighbours", digits=3
    )
    counts = (
        f"{len(chosen)} held-out images, whole and without noise, neighbours among training "
        f"images; maps by {method}, of seed {session.seeds[0]}; chance "
        f"1/{len(session.data.class_names)}"
    )
    return Outcome(columns=(column,), rows=tuple(rows), counts=counts, pictures=tuple(pictures))


def _latents(run: Trained, split: Split, chosen: Sequence[int]) -> Float[Tensor, "b f"]:
    num_patches = run.config.model.encoder.num_patches
    whole = random_mask(len(chosen), num_patches, MaskRatio(low=0.0, high=0.0))
    mean = encode_means(run.model, split, chosen, whole).mean
    return rearrange(mean.float().cpu(), "b k d -> b (k d)")


def _neighbours(
    session: Session, run: Trained, latents: Float[Tensor, "b f"], chosen: Sequence[int]
) -> float:
    data, seed = session.data, run.config.seed
    even = torch.arange(_MAPPED) % len(data.class_names)
    shown = even[torch.isin(even, data.train.labels)]
    seen = sorted(set(same_classes(data.train, shown, seed)))
    train = ProbeData(_latents(run, data.train, seen), data.train.labels[seen])
    k = min(_NEIGHBOURS, len(seen))
    return knn_accuracy(train, ProbeData(latents, data.held_out.labels[chosen]), k).top1


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
    count = 2 if session.quick else _SPECTRA
    found: dict[str, list[SpectrumResult]] = {}
    for variant in experiment.variants:
        runs = (train_row(session, experiment, variant, seed) for seed in session.seeds)
        found[variant.label] = [_spectrum(session, run, count) for run in runs]
    rows = tuple(
        Row(label=each.label, paper=each.paper, ours=_medians(found[each.label]))
        for each in experiment.variants
    )
    columns = tuple(
        Column(key=key, paper="", ours=f"{ours}, median", digits=3)
        for key, ours in (
            ("log10_sigma_max", "log10 sigma_max"),
            ("log10_sigma_min", "log10 sigma_min"),
            ("log10_kappa", "log10 kappa"),
        )
    )
    picture = f"{name}.png"
    (session.out / name).mkdir(parents=True, exist_ok=True)
    plot_spectra({label: each[0] for label, each in found.items()}, session.out / name / picture)
    counts = f"N = {count} held-out latents, hidden in part as in training, no class; the picture "
    counts += f"is of seed {session.seeds[0]}"
    return Outcome(columns=columns, rows=rows, counts=counts, pictures=(picture,))


def _spectrum(session: Session, run: Trained, count: int) -> SpectrumResult:
    split = session.data.held_out
    unseen = split.stack(spread(len(split.labels), count).tolist())
    return flow_spectrum(
        run.model.flow, encode(run.model, run.config, unseen, "reproduce spectra").z
    )


def _medians(results: Sequence[SpectrumResult]) -> dict[str, list[float]]:
    return {
        "log10_sigma_max": [_median(each.sigma_max.log10()) for each in results],
        "log10_sigma_min": [_median(each.sigma_min.log10()) for each in results],
        "log10_kappa": [_median(each.log10_kappa) for each in results],
    }


def _median(values: Float[Tensor, " b"]) -> float:
    return float(values.nanmedian())


def probe_depths(session: Session, name: str, experiment: Experiment) -> Outcome:
    """Probe the class at every stage of one run's encoder and flow.

    Args:
        session: What to do it with.
        name: The experiment's folder.
        experiment: One row, the run.
    """
    (variant,) = experiment.variants
    probes = [
        probe_classes(run.model, run.config, session.data)
        for run in (train_row(session, experiment, variant, seed) for seed in session.seeds)
    ]
    stages = list(probes[0].accuracy)
    rows = tuple(
        Row(
            label=stage,
            paper=variant.paper if stage == variant.label else {},
            ours={"accuracy": [probe.accuracy[stage] for probe in probes]},
        )
        for stage in stages
    )
    picture, first = f"{name}.png", probes[0]
    curves = [
        {stage: value for stage, value in probe.accuracy.items() if "features" not in stage}
        for probe in probes
    ]
    draw_depths(curves, first.chance, session.out / name / picture)
    column = Column(key="accuracy", paper="Acc.", ours="accuracy, mean over classes", digits=3)
    counts = (
        f"probes of {first.n_train} training images, tested on {first.n_held_out} held-out ones; "
        f"chance {first.chance:.3f}; {len(session.seeds)} seed(s)"
    )
    return Outcome(columns=(column,), rows=rows, counts=counts, pictures=(picture,))
