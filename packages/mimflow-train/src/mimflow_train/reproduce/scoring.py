"""Scores of one run: samples, reconstructions, and how semantic its latents are."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from genmetrics import (
    Evaluator,
    extract_features,
    frechet_distance_from_features,
    open_images,
    psnr,
)
from genmetrics.evaluation.protocols import choose_protocol
from mimflow_train.config import TrainConfig
from mimflow_train.data.images import ChosenImages, in_batches
from mimflow_train.draws import generator
from mimflow_train.evaluation.class_probe import enough_to_probe, probe_encoder
from mimflow_train.evaluation.features import features_of
from mimflow_train.evaluation.pictures import save_npz
from mimflow_train.evaluation.reconstruction import decoded, encode, unmasked
from mimflow_train.evaluation.sampling import generate
from mimflow_train.evaluation.selection import CHUNK, drawn_labels, same_classes
from mimflow_train.reproduce.session import Session, digest
from mimflow_train.reproduce.trained import Trained
from mimflow_train.storage.checkpoint import chosen_weights
from mimflow_train.storage.files import written_whole
from mimflow_train.storage.lock import locked_in_turn
from mimflow_train.telemetry.console import counted
from tarflow_prior import Guidance

__all__ = ["CLASS_NETWORKS", "SCORING_VERSION", "score", "score_folder"]

SCORING_VERSION = 7  # to be raised with every change here that changes a number

_METRICS = {"inception": ("fid", "sfid", "is", "pr"), "efflite0": ("fid", "is", "pr")}
CLASS_NETWORKS = tuple(_METRICS)  # have an Inception Score


def score(session: Session, run: Trained, guidance: Guidance | None, num: int) -> dict[str, float]:
    """Judge a run, or return what was found of the same weights in the same way before.

    Args:
        session: Images and feature network.
        run: The networks.
        guidance: How samples lean towards their class; None for not at all.
        num: How many samples.

    Returns:
        ``gfid``, ``is``, ``precision`` and ``recall`` of the samples, by Inception ``sfid`` too;
        ``rfid_masked`` and, where whole images can be encoded, ``rfid``, ``psnr``, ``accuracy``,
        ``accuracy_features`` of a ViT, and ``fd_rebuilt``, of images that are not those they are
        compared with.
    """
    # First what no guidance can make overflow.
    rest = _once(session, _of_autoencoder(session, run), lambda _: _autoencoder(session, run))
    of_samples = _of_samples(session, run, guidance, num)
    return _once(session, of_samples, partial(_samples, session, run, guidance, num)) | rest


def _once(
    session: Session, of: Mapping[str, Any], judge: Callable[[Path], dict[str, float]]
) -> dict[str, float]:
    """Return scores by what they are of; ``judge`` makes them if they are not there."""
    folder = _folder(session, of)
    found = folder / "scores.json"
    with locked_in_turn(folder):
        if not found.exists():
            text = json.dumps({"scores": judge(folder), "of": of}, indent=2, allow_nan=False)
            with written_whole(found) as draft:
                draft.write_text(text + "\n")
    scores: dict[str, float] = json.loads(found.read_text())["scores"]
    return scores


def score_folder(session: Session, run: Trained, guidance: Guidance | None, num: int) -> Path:
    """Return where a run's samples lie, as ``samples.npz``, and their scores.

    Args:
        session: Images and feature network.
        run: The networks.
        guidance: How samples lean towards their class; None for not at all.
        num: How many samples.
    """
    return _folder(session, _of_samples(session, run, guidance, num))


def _folder(session: Session, of: Mapping[str, Any]) -> Path:
    return session.out.resolve() / "scores" / digest(of)


def _of_samples(
    session: Session, run: Trained, guidance: Guidance | None, num: int
) -> dict[str, Any]:
    return _of_autoencoder(session, run) | {
        "part": "samples",
        "guidance": guidance and _told(guidance),
        "num": num,
    }


def _told(guidance: Guidance) -> dict[str, Any]:
    fields = asdict(guidance)
    if guidance.attention_temperature == 1:
        del fields["attention_temperature"]  # scores from before there was one keep their place
    return fields


def _of_autoencoder(session: Session, run: Trained) -> dict[str, Any]:
    return {
        "version": SCORING_VERSION,
        "part": "autoencoder",
        "run": session.run_dir(run.config).name,
        "checkpoint": run.checkpoint,
        "weights": chosen_weights(run.config),
        "images": session.base.data.fingerprint,
        "extractor": session.extractor_name,
        "extractor_sha256": session.extractor.weights_sha256,
    }


def _autoencoder(session: Session, run: Trained) -> dict[str, float]:
    """Judge what neither guidance nor the number of samples changes."""
    values = _reconstructions(session, run)
    if _encodes_whole(run):
        learn = enough_to_probe(len(session.data.class_names))
        probe = probe_encoder(run.model, run.config, session.data, learn)
        values["accuracy"] = probe["latents"]
        if run.config.model.convolutional is None:  # which has no features but its latents
            values["accuracy_features"] = probe["features"]
    return values


def _encodes_whole(run: Trained) -> bool:
    return run.config.model.encoder.bottleneck != "mae"


def _samples(
    session: Session, run: Trained, guidance: Guidance | None, num: int, folder: Path
) -> dict[str, float]:
    draw = generator(run.config.seed, "reproduce samples")
    label = drawn_labels(session.data.held_out.labels, num, draw)
    batches = generate(run.model, label, draw, guidance=guidance)
    batches = counted(batches, len(label), f"samples of {session.run_dir(run.config).name}")
    name = session.extractor_name
    metrics = _METRICS.get(name, ("fid", "pr"))
    evaluator = Evaluator(
        open_images(session.reference),
        extractor=session.extractor,
        protocol=choose_protocol(None, name, metrics=metrics),
        seed=run.config.seed,
        cache=session.real_features_folder,
    )
    save_npz(_shown(batches, evaluator.update), label, folder / "samples.npz")
    report = evaluator.result()
    ours = {"fid": "gfid", "fd": "gfid"}
    heads = {name.partition("_")[0]: each.value for name, each in report.scores.items()}
    return {ours.get(head, head): value for head, value in heads.items()}


def _shown(
    batches: Iterable[UInt8[Tensor, "b 3 h w"]], show: Callable[[Tensor], None]
) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
    """Yield batches of images that have been shown."""
    for batch in batches:
        show(batch)
        yield batch


def _reconstructions(session: Session, run: Trained) -> dict[str, float]:
    """Judge held-out images that were hidden in part or not at all, encoded and decoded."""
    values = {"rfid_masked": _rebuilt(session, run, run.config)[0]}
    if _encodes_whole(run):
        values["rfid"], values["psnr"] = _rebuilt(session, run, unmasked(run.config))
        values["fd_rebuilt"] = _rebuilt_others(session, run)
    return values


def _rebuilt(session: Session, run: Trained, config: TrainConfig) -> tuple[float, float]:
    """Return the Frechet distance of reconstructions, and their mean PSNR."""
    unseen = session.data.held_out.images
    z = encode(run.model, config, unseen, "reproduce").z
    features, decibels = [], []
    for real, image in zip(in_batches(unseen, CHUNK), decoded(run.model, z), strict=True):
        features.append(extract_features(image, session.extractor))
        decibels.append(psnr(image, real))
    distance = frechet_distance_from_features(torch.cat(features), session.real_features).value
    return distance, float(torch.cat(decibels).mean())


def _rebuilt_others(session: Session, run: Trained) -> float:
    """Return the Frechet distance of reconstructed training images of the held-out ones' classes.

    A perfect prior's samples would score so: other images than those they are compared with, as
    samples are and ``rfid``'s are not.
    """
    train, label = session.data.train, session.data.held_out.labels
    others = ChosenImages(train.images, same_classes(train, label, run.config.seed))
    z = encode(run.model, unmasked(run.config), others, "reproduce").z
    features = features_of(decoded(run.model, z), session.extractor)
    return frechet_distance_from_features(features, session.real_features).value
