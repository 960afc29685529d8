"""Judges a run: reconstruction, likelihood, and whether the flow earns its place.

All sets have the same N and the same classes. The reference is held out: real images that
training never saw. Against it come real training images (the floor), the same images hidden in
part, encoded and decoded (what a perfect prior would reach), samples of the flow, and latents
drawn from a Gaussian with the latents' own mean and standard deviation (no prior at all).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genmetrics import (
    Extractor,
    frechet_distance_from_features,
    get_extractor,
    logistic_probe,
)
from mimflow_train.config import TrainConfig
from mimflow_train.data.images import ChosenImages, LabelledImages, Split, in_batches
from mimflow_train.draws import generator
from mimflow_train.evaluation.class_probe import enough_to_probe, probed_images
from mimflow_train.evaluation.features import features_of
from mimflow_train.evaluation.reconstruction import decoded, encode, evaluate_reconstruction
from mimflow_train.evaluation.sampling import generate
from mimflow_train.evaluation.selection import CHUNK, judged_images, same_classes, spread
from mimflow_train.model import MIMFlow
from mimflow_train.objective import nll_floor
from mimflow_train.telemetry.console import counted
from tarflow_prior import nll_per_dim

__all__ = ["Evaluation", "evaluate"]

_LATENT_IMAGES = 2048
_PROBE_IMAGES = 1200
_ASKED_CLASSES = 12
_SAMPLES_PER_CLASS = 20
_SHOWN_AS = {
    "real": "real images",
    "posterior_unseen": "reconstructions",
    "flow": "samples",
    "gaussian": "decoded Gaussian latents",
    "held_out": "held-out images",
}
_LEAST_GAP = 0.01  # of what a perfect prior would reach; below it a share of the gap says nothing


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What came out of a run; distances are ``fd_efflite0`` against held-out real images.

    Attributes:
        num_images: N of every set.
        nll_train: NLL per latent dimension on training images, without ``ln(2 pi) / 2``.
        nll_held_out: The same on held-out images.
        nll_floor: The least that the latent noise allows.
        psnr: Of the held-out images' masked reconstructions, in dB on [0, 1], mean over images.
        psnr_whole: The same with no patch hidden, as papers report reconstruction; training never
            shows the encoder such an image.
        fd_floor: Real training images.
        fd_posterior: Decoded posterior latents of the same training images, masked.
        fd_whole: The same with no patch hidden.
        fd_flow: Decoded samples of the flow.
        fd_gaussian: Decoded Gaussian latents.
        gap_closed: ``(fd_gaussian - fd_flow) / (fd_gaussian - fd_posterior)``; None where Gaussian
            latents decode as well as posterior ones, to 1 %.
        class_accuracy: Share of new samples, equally many of twelve classes, in which a probe of
            real images of all classes sees the one that was asked for. With all that follow None
            where there is one class.
        class_num_samples: How many these are.
        class_accuracy_posterior: The same in decoded posterior latents of held-out images, which
            the probe has not seen either; mean over classes.
        class_accuracy_real: The same in held-out real images, mean over classes.
        class_chance: One over the number of classes.
    """

    num_images: int
    nll_train: float
    nll_held_out: float
    nll_floor: float
    psnr: float
    psnr_whole: float
    fd_floor: float
    fd_posterior: float
    fd_whole: float
    fd_flow: float
    fd_gaussian: float
    gap_closed: float | None
    class_accuracy: float | None = None
    class_num_samples: int | None = None
    class_accuracy_posterior: float | None = None
    class_accuracy_real: float | None = None
    class_chance: float | None = None


@torch.no_grad()
def evaluate(model: MIMFlow, config: TrainConfig, data: LabelledImages) -> Evaluation:
    """Judge a model against real images.

    Args:
        model: Usually the averaged weights.
        config: The run; its seed decides every draw.
        data: Training and held-out images.
    """
    chosen = judged_images(data)
    label, unseen = data.held_out.labels[chosen], ChosenImages(data.held_out.images, chosen)
    real = ChosenImages(data.train.images, same_classes(data.train, label, config.seed))
    posterior = encode(model, config, real, "evaluate train").z
    posterior_unseen = encode(model, config, unseen, "evaluate held out").z
    draw = generator(config.seed, "evaluate samples")
    sets = {
        "real": in_batches(real, CHUNK),
        "posterior_unseen": decoded(model, posterior_unseen),
        "flow": generate(model, label, draw, guidance=config.own_guidance),
        "gaussian": decoded(model, _gaussian_latents(model, config, data.train, len(label))),
        "held_out": in_batches(unseen, CHUNK),
    }
    extractor = get_extractor("efflite0", device=str(posterior.device))
    features = {
        name: features_of(counted(batches, len(label), _SHOWN_AS[name]), extractor)
        for name, batches in sets.items()
    }
    distance = {
        name: frechet_distance_from_features(features[name], features["held_out"]).value
        for name in ("real", "flow", "gaussian")
    }
    rebuilt = evaluate_reconstruction(model, config, data, reference=features["held_out"])
    distance["posterior"] = rebuilt.fd_posterior
    return Evaluation(
        num_images=len(label),
        nll_train=_nll(model, posterior, label),
        nll_held_out=_nll(model, posterior_unseen, label),
        nll_floor=nll_floor(config.model.encoder.sigma),
        psnr=rebuilt.psnr,
        psnr_whole=rebuilt.psnr_whole,
        fd_floor=distance["real"],
        fd_posterior=distance["posterior"],
        fd_whole=rebuilt.fd_whole,
        fd_flow=distance["flow"],
        fd_gaussian=distance["gaussian"],
        gap_closed=_gap_closed(distance),
        **_class_scores(model, config, data, draw=draw, extractor=extractor, features=features),
    )


def _gap_closed(distance: Mapping[str, float]) -> float | None:
    gap = distance["gaussian"] - distance["posterior"]
    if gap < _LEAST_GAP * distance["posterior"]:
        return None
    return (distance["gaussian"] - distance["flow"]) / gap


def _gaussian_latents(model: MIMFlow, config: TrainConfig, split: Split, count: int) -> Tensor:
    """Draw Gaussian latents of the mean and standard deviation that training images' have."""
    draw = generator(config.seed, "gaussian latents")
    chosen = torch.randperm(len(split.labels), generator=draw)[:_LATENT_IMAGES].tolist()
    shown = ChosenImages(split.images, chosen)
    latents = encode(model, config, shown, "training latents").z
    noise = torch.randn(count, *latents.shape[1:], generator=draw).to(latents.device)
    return latents.mean(0) + latents.std(0) * noise


def _class_scores(
    model: MIMFlow,
    config: TrainConfig,
    data: LabelledImages,
    *,
    draw: torch.Generator,
    extractor: Extractor,
    features: Mapping[str, Tensor],
) -> dict[str, Any]:
    """Return what a probe of real images says of new and of held-out ones; empty for one class."""
    num_classes = len(data.class_names)
    if num_classes == 1:
        return {}
    num_train = enough_to_probe(num_classes, _PROBE_IMAGES)
    shown = probed_images(data, num_train, config.seed)
    known = features_of(in_batches(ChosenImages(data.train.images, shown), CHUNK), extractor)
    probe = logistic_probe(known, data.train.labels[shown], balanced=True)
    asked = spread(num_classes, _ASKED_CLASSES).repeat_interleave(_SAMPLES_PER_CLASS)
    drawn = features_of(generate(model, asked, draw, guidance=config.own_guidance), extractor)
    label = data.held_out.labels[judged_images(data)]
    return {
        "class_accuracy": probe.accuracy(drawn, asked),
        "class_num_samples": len(asked),
        "class_accuracy_posterior": probe.balanced_accuracy(features["posterior_unseen"], label),
        "class_accuracy_real": probe.balanced_accuracy(features["held_out"], label),
        "class_chance": 1 / num_classes,
    }


@torch.no_grad()
def _nll(model: MIMFlow, z: Tensor, label: Tensor) -> float:
    parts = zip(z.split(CHUNK), label.to(z.device).split(CHUNK), strict=True)
    return torch.cat([nll_per_dim(model.flow(*part)) for part in parts]).mean().item()
