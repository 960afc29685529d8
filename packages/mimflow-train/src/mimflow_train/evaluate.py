"""Judges a run: reconstruction, likelihood, and whether the flow earns its place.

All sets have the same N and the same classes. The reference is held out: real images that
training never saw. Against it come real training images (the floor), the same images hidden in
part, encoded and decoded (what a perfect prior would reach), samples of the flow, and latents
drawn from a Gaussian with the latents' own mean and standard deviation (no prior at all).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from genmetrics import (
    extract_features,
    frechet_distance_from_features,
    get_extractor,
    logistic_probe,
)
from mim_encoder import random_mask
from mimflow_train.config import TrainConfig
from mimflow_train.data.images import LabelledImages, Split, to_unit
from mimflow_train.draws import generator
from mimflow_train.model import MIMFlow
from mimflow_train.objective import nll_floor
from mimflow_train.pictures import to_bytes
from tarflow_prior import Guidance, nll_per_dim

__all__ = [
    "Evaluation",
    "Reconstruction",
    "class_rows",
    "decode",
    "encode",
    "evaluate",
    "evaluate_reconstruction",
    "generate",
]

_CHUNK = 64
_LATENT_IMAGES = 2048
_PROBE_IMAGES = 1200
_SAMPLES_PER_CLASS = 20


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What came out of a run; distances are ``fd_efflite0`` against held-out real images.

    Attributes:
        num_images: N of every set.
        nll_train: NLL per latent dimension on training images, without ``ln(2 pi) / 2``.
        nll_held_out: The same on held-out images.
        nll_floor: The least that the latent noise allows.
        psnr: Of the held-out images' masked reconstructions, in dB on [0, 1], mean over images.
        fd_floor: Real training images.
        fd_posterior: Decoded posterior latents of the same training images, masked.
        fd_flow: Decoded samples of the flow.
        fd_gaussian: Decoded Gaussian latents.
        gap_closed: ``(fd_gaussian - fd_flow) / (fd_gaussian - fd_posterior)``.
        class_accuracy: Share of new samples, equally many of each class, in which a probe of real
            images sees the class that was asked for.
        class_accuracy_posterior: The same in decoded posterior latents, mean over classes.
        class_accuracy_real: The same in held-out real images, mean over classes.
        class_chance: One over the number of classes.
    """

    num_images: int
    nll_train: float
    nll_held_out: float
    nll_floor: float
    psnr: float
    fd_floor: float
    fd_posterior: float
    fd_flow: float
    fd_gaussian: float
    gap_closed: float
    class_accuracy: float
    class_accuracy_posterior: float
    class_accuracy_real: float
    class_chance: float


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """How well images come back, before or after the decoder phase.

    Attributes:
        psnr: As of :class:`Evaluation`.
        fd_posterior: As of :class:`Evaluation`.
    """

    psnr: float
    fd_posterior: float


class Encoding(NamedTuple):
    """Noisy latents of images, and which patches of them were hidden."""

    masked: Bool[Tensor, "b n"]
    z: Float[Tensor, "b k d"]


@torch.no_grad()
def evaluate(model: MIMFlow, config: TrainConfig, data: LabelledImages) -> Evaluation:
    """Judge a model against real images.

    Args:
        model: Usually the averaged weights.
        config: The run; its seed decides every draw.
        data: Training and held-out images.
    """
    label = data.held_out.labels
    unseen = data.held_out.stack(range(len(label)))
    real = data.train.stack(_same_classes(data.train, label, config.seed))
    posterior = encode(model, config, real, "evaluate train").z
    posterior_unseen = encode(model, config, unseen, "evaluate held out").z
    draw = generator(config.seed, "evaluate samples")
    sets = {
        "real": real,
        "posterior": decode(model, posterior),
        "flow": to_bytes(generate(model, config, label, draw)).cpu(),
        "gaussian": decode(model, _gaussian_latents(model, config, data.train, len(label))),
        "held_out": unseen,
    }
    extractor = get_extractor("efflite0", device=str(posterior.device))
    features = {name: extract_features(images, extractor) for name, images in sets.items()}
    distance = {
        name: frechet_distance_from_features(each, features["held_out"]).value
        for name, each in features.items()
    }
    chosen = _evenly_from_classes(data, config.seed)
    shown = extract_features(data.train.stack(chosen), extractor)
    probe = logistic_probe(shown, data.train.labels[chosen], balanced=True)
    asked = class_rows(len(data.class_names), _SAMPLES_PER_CLASS)
    drawn = to_bytes(generate(model, config, asked, draw)).cpu()
    gap = distance["gaussian"] - distance["posterior"]
    return Evaluation(
        num_images=len(label),
        nll_train=_nll(model, posterior, label),
        nll_held_out=_nll(model, posterior_unseen, label),
        nll_floor=nll_floor(config.model.encoder.sigma),
        psnr=_psnr(decode(model, posterior_unseen), unseen),
        fd_floor=distance["real"],
        fd_posterior=distance["posterior"],
        fd_flow=distance["flow"],
        fd_gaussian=distance["gaussian"],
        gap_closed=(distance["gaussian"] - distance["flow"]) / gap if gap > 0 else 0.0,
        class_accuracy=probe.accuracy(extract_features(drawn, extractor), asked),
        class_accuracy_posterior=probe.balanced_accuracy(features["posterior"], label),
        class_accuracy_real=probe.balanced_accuracy(features["held_out"], label),
        class_chance=1 / len(data.class_names),
    )


@torch.no_grad()
def evaluate_reconstruction(
    model: MIMFlow, config: TrainConfig, data: LabelledImages
) -> Reconstruction:
    """Judge encoder and decoder alone, on the images and draws of :func:`evaluate`.

    Args:
        model: Usually the averaged weights.
        config: The run; its seed decides every draw.
        data: Training and held-out images.
    """
    label = data.held_out.labels
    unseen = data.held_out.stack(range(len(label)))
    real = data.train.stack(_same_classes(data.train, label, config.seed))
    decoded = decode(model, encode(model, config, real, "evaluate train").z)
    decoded_unseen = decode(model, encode(model, config, unseen, "evaluate held out").z)
    extractor = get_extractor("efflite0", device=str(next(model.parameters()).device))
    features = [extract_features(images, extractor) for images in (decoded, unseen)]
    distance = frechet_distance_from_features(*features).value
    return Reconstruction(psnr=_psnr(decoded_unseen, unseen), fd_posterior=distance)


@torch.no_grad()
def encode(
    model: MIMFlow, config: TrainConfig, pixels: UInt8[Tensor, "b 3 h w"], stream: str
) -> Encoding:
    """Hide, encode and add noise to images, as in training.

    Args:
        model: The networks.
        config: The run, for mask and noise.
        pixels: The images.
        stream: Name of the random draws.
    """
    device = next(model.parameters()).device
    encoder = config.model.encoder
    draw = generator(config.seed, stream)
    masked = random_mask(len(pixels), encoder.num_patches, config.mask, generator=draw)
    noise = torch.randn(len(pixels), encoder.num_latents, encoder.latent_dim, generator=draw)
    parts = []
    for rows in torch.arange(len(pixels)).split(_CHUNK):
        image = to_unit(pixels[rows]).to(device)
        posterior = model.encoder(image, masked[rows].to(device))
        parts.append(posterior.perturb(noise[rows].to(device)))
    return Encoding(masked, torch.cat(parts))


@torch.no_grad()
def decode(model: MIMFlow, z: Float[Tensor, "b k d"]) -> UInt8[Tensor, "b 3 h w"]:
    """Return the images that latents stand for, as bytes on the CPU."""
    return torch.cat([to_bytes(model.decoder(part)).cpu() for part in z.split(_CHUNK)])


@torch.no_grad()
def generate(
    model: MIMFlow,
    config: TrainConfig,
    label: Int64[Tensor, " b"],
    draw: torch.Generator,
    *,
    temperature: float = 1.0,
) -> Float[Tensor, "b c h w"]:
    """Draw images of the given classes with the run's own guidance, in chunks.

    Args:
        model: Usually the averaged weights.
        config: The run.
        label: Class of each image.
        draw: Source of the base noise, on the CPU.
        temperature: Standard deviation of the base noise.
    """
    device = next(model.parameters()).device
    guidance = Guidance(scale=config.guidance) if config.guidance > 0 else None
    parts = [
        model.generate(part.to(device), guidance=guidance, temperature=temperature, generator=draw)
        for part in label.split(4 * _CHUNK)
    ]
    return torch.cat(parts)


def class_rows(num_classes: int, columns: int) -> Int64[Tensor, " b"]:
    """Return labels for a grid with one row for each class."""
    return torch.arange(num_classes).repeat_interleave(columns)


def _gaussian_latents(model: MIMFlow, config: TrainConfig, split: Split, count: int) -> Tensor:
    """Draw latents from a Gaussian with the mean and deviation of training images' latents."""
    draw = generator(config.seed, "gaussian latents")
    chosen = torch.randperm(len(split.labels), generator=draw)[:_LATENT_IMAGES].tolist()
    latents = encode(model, config, split.stack(chosen), "training latents").z
    noise = torch.randn(count, *latents.shape[1:], generator=draw).to(latents.device)
    return latents.mean(0) + latents.std(0) * noise


def _same_classes(split: Split, label: Int64[Tensor, " b"], seed: int) -> list[int]:
    """Choose, for each label, an image of that class; none twice while there are others."""
    draw = generator(seed, "same classes")
    queues: dict[int, list[int]] = {}
    chosen = []
    for wanted in label.tolist():
        if not queues.get(wanted):
            members = torch.nonzero(split.labels == wanted).flatten()
            queues[wanted] = members[torch.randperm(len(members), generator=draw)].tolist()
        chosen.append(queues[wanted].pop())
    return chosen


def _evenly_from_classes(data: LabelledImages, seed: int) -> list[int]:
    """Choose training images for the probe, as many of each class as there are."""
    even = torch.arange(_PROBE_IMAGES) % len(data.class_names)
    present = even[torch.isin(even, data.train.labels)]
    return sorted(set(_same_classes(data.train, present, seed)))


@torch.no_grad()
def _nll(model: MIMFlow, z: Tensor, label: Tensor) -> float:
    return nll_per_dim(model.flow(z, label.to(z.device))).mean().item()


def _psnr(image: UInt8[Tensor, "b 3 h w"], target: UInt8[Tensor, "b 3 h w"]) -> float:
    """Return the mean over images of ``-10 log10 MSE`` on [0, 1], at most 100 dB."""
    error = (image.double() - target.double()).div(255).square().flatten(1).mean(1)
    return float((-10 * error.clamp(min=1e-10).log10()).mean())
