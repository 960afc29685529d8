"""Judges a run: reconstruction, likelihood, and whether the flow earns its place.

All sets have the same N and the same classes. The reference is held out: real images that
training never saw. Against it come real training images (the floor), the same images hidden in
part, encoded and decoded (what a perfect prior would reach), samples of the flow, and latents
drawn from a Gaussian with the latents' own mean and standard deviation (no prior at all).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
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
from mimflow_train.objective import nll_floor, pixel_loss
from mimflow_train.pictures import to_bytes
from tarflow_prior import Guidance, nll_per_dim

__all__ = ["Evaluation", "class_rows", "evaluate", "generate", "reconstruct"]

_CHUNK = 64
_LATENT_IMAGES = 2048
_PROBE_IMAGES = 1200


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
        class_accuracy: Mean over classes of the share of samples in which a probe of real images
            sees their class.
        class_accuracy_real: The same on held-out real images.
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
    class_accuracy_real: float
    class_chance: float


class Reconstruction(NamedTuple):
    """Latents of masked images and what the decoder makes of them."""

    masked: Tensor
    z: Tensor
    image: Tensor
    nll: Tensor


@torch.no_grad()
def evaluate(model: MIMFlow, config: TrainConfig, data: LabelledImages) -> Evaluation:
    """Judge a model against real images.

    Args:
        model: Usually the averaged weights.
        config: The run; its seed decides every draw.
        data: Training and held-out images.
    """
    device = next(model.parameters()).device
    held_out = data.held_out
    label = held_out.labels
    twins = _same_classes(data.train, label, config.seed)
    real = data.train.stack(twins)
    rebuilt = reconstruct(model, config, real, label, "evaluate train")
    unseen = reconstruct(
        model, config, held_out.stack(range(len(label))), label, "evaluate held out"
    )
    latents = _training_latents(model, config, data.train)
    noise = torch.randn(rebuilt.z.shape, generator=generator(config.seed, "gaussian latents"))
    gaussian = latents.mean(0) + latents.std(0) * noise.to(device)
    samples = generate(model, config, label, generator(config.seed, "evaluate samples"))
    sets = {
        "held_out": held_out.stack(range(len(label))),
        "real": real,
        "posterior": to_bytes(rebuilt.image),
        "flow": to_bytes(samples),
        "gaussian": to_bytes(_decode(model, gaussian)),
    }
    features = {name: _features(images, device) for name, images in sets.items()}
    distance = {
        name: frechet_distance_from_features(each, features["held_out"]).value
        for name, each in features.items()
    }
    seen, recognised = _recognise(config, data, features, label, device)
    gap = distance["gaussian"] - distance["posterior"]
    return Evaluation(
        num_images=len(label),
        nll_train=rebuilt.nll.mean().item(),
        nll_held_out=unseen.nll.mean().item(),
        nll_floor=nll_floor(config.model.encoder.sigma),
        psnr=_psnr(unseen.image, to_unit(sets["held_out"]).to(device)),
        fd_floor=distance["real"],
        fd_posterior=distance["posterior"],
        fd_flow=distance["flow"],
        fd_gaussian=distance["gaussian"],
        gap_closed=(distance["gaussian"] - distance["flow"]) / gap if gap > 0 else 0.0,
        class_accuracy=seen,
        class_accuracy_real=recognised,
        class_chance=1 / len(data.class_names),
    )


@torch.no_grad()
def reconstruct(
    model: MIMFlow,
    config: TrainConfig,
    pixels: UInt8[Tensor, "b 3 h w"],
    label: Int64[Tensor, " b"],
    stream: str,
) -> Reconstruction:
    """Hide, encode, add noise and decode images, as in training.

    Args:
        model: The networks.
        config: The run, for mask and noise.
        pixels: The images.
        label: Their classes, for the NLL.
        stream: Name of the random draws.
    """
    device = next(model.parameters()).device
    encoder = config.model.encoder
    draw = generator(config.seed, stream)
    masked = random_mask(len(pixels), encoder.num_patches, config.mask, generator=draw)
    noise = torch.randn(len(pixels), encoder.num_latents, encoder.latent_dim, generator=draw)
    parts = []
    for rows in torch.arange(len(pixels)).split(_CHUNK):
        moved = [each[rows].to(device) for each in (to_unit(pixels), label, masked, noise)]
        image, classes, hidden, epsilon = moved
        z = model.encoder(image, hidden).perturb(epsilon)
        nll = nll_per_dim(model.flow(z, classes))
        parts.append(Reconstruction(hidden, z, model.decoder(z), nll))
    return Reconstruction(*(torch.cat(each) for each in zip(*parts, strict=True)))


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


def _decode(model: MIMFlow, z: Tensor) -> Tensor:
    return torch.cat([model.decoder(part) for part in z.split(_CHUNK)])


def _training_latents(model: MIMFlow, config: TrainConfig, split: Split) -> Tensor:
    """Return noisy latents of masked training images, as many as needed for mean and std."""
    draw = generator(config.seed, "training latents")
    chosen = torch.randperm(len(split.labels), generator=draw)[:_LATENT_IMAGES].tolist()
    labels = split.labels[chosen]
    return reconstruct(model, config, split.stack(chosen), labels, "training latents").z


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


def _features(pixels: UInt8[Tensor, "b 3 h w"], device: torch.device) -> Tensor:
    return extract_features(pixels, get_extractor("efflite0", device=str(device)))


def _recognise(
    config: TrainConfig,
    data: LabelledImages,
    features: dict[str, Tensor],
    label: Tensor,
    device: torch.device,
) -> tuple[float, float]:
    """Return balanced accuracy of a probe of training images, on samples and on held-out images."""
    num_classes = len(data.class_names)
    even = torch.arange(_PROBE_IMAGES) % num_classes
    present = even[torch.isin(even, data.train.labels)]
    chosen = sorted(set(_same_classes(data.train, present, config.seed)))
    shown = _features(data.train.stack(chosen), device)
    probe = logistic_probe(shown, data.train.labels[chosen], balanced=True)
    return (
        probe.balanced_accuracy(features["flow"], label),
        probe.balanced_accuracy(features["held_out"], label),
    )


def _psnr(image: Tensor, target: Tensor) -> float:
    error = torch.stack(
        [pixel_loss(a[None], b[None]) for a, b in zip(image.clamp(-1, 1), target, strict=True)]
    )
    return float((-10 * error.clamp(min=1e-10).log10()).mean())
