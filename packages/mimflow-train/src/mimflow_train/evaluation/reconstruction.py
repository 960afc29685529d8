"""What comes back when images are hidden in part, encoded and decoded, and how it is judged."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from genmetrics import frechet_distance_from_features, get_extractor, psnr
from mim_encoder import MaskRatio, random_mask
from mimflow_train.config import TrainConfig
from mimflow_train.data.images import (
    ChosenImages,
    ImageSource,
    LabelledImages,
    in_batches,
    to_bytes,
    to_unit,
)
from mimflow_train.draws import generator
from mimflow_train.evaluation.features import features_of
from mimflow_train.evaluation.selection import CHUNK, judged_images, judged_mask, same_classes
from mimflow_train.model import MIMFlow

__all__ = [
    "Encoding",
    "Reconstruction",
    "decode",
    "decoded",
    "encode",
    "evaluate_reconstruction",
    "unmasked",
]


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """How well images come back, as in :class:`~mimflow_train.evaluation.summary.Evaluation`.

    Attributes:
        psnr: Of held-out images, hidden in part.
        psnr_whole: Of held-out images with no patch hidden.
        fd_posterior: Of training images, hidden in part.
        fd_whole: Of training images with no patch hidden.
    """

    psnr: float
    psnr_whole: float
    fd_posterior: float
    fd_whole: float


class Encoding(NamedTuple):
    """Noisy latents of images, and which patches of them were hidden."""

    masked: Bool[Tensor, "b n"]
    z: Float[Tensor, "b k d"]


@torch.no_grad()
def evaluate_reconstruction(
    model: MIMFlow,
    config: TrainConfig,
    data: LabelledImages,
    *,
    reference: Float[Tensor, "n f"] | None = None,
) -> Reconstruction:
    """Judge encoder and decoder alone.

    Args:
        model: Usually the averaged weights.
        config: The run; its seed decides every draw.
        data: Training and held-out images.
        reference: Features of the held-out images that are judged, if there are any yet.
    """
    chosen = judged_images(data)
    unseen = ChosenImages(data.held_out.images, chosen)
    others = same_classes(data.train, data.held_out.labels[chosen], config.seed)
    seen = ChosenImages(data.train.images, others)
    extractor = get_extractor("efflite0", device=str(next(model.parameters()).device))
    if reference is None:
        reference = features_of(in_batches(unseen, CHUNK), extractor)

    def distance(hidden: TrainConfig) -> float:
        rebuilt = decoded(model, encode(model, hidden, seen, "evaluate train").z)
        return frechet_distance_from_features(features_of(rebuilt, extractor), reference).value

    def decibels(hidden: TrainConfig) -> float:
        rebuilt = decoded(model, encode(model, hidden, unseen, "evaluate held out").z)
        pairs = zip(rebuilt, in_batches(unseen, CHUNK), strict=True)
        return float(torch.cat([psnr(*pair) for pair in pairs]).mean())

    whole = unmasked(config)
    return Reconstruction(
        psnr=decibels(config),
        psnr_whole=decibels(whole),
        fd_posterior=distance(config),
        fd_whole=distance(whole),
    )


def unmasked(config: TrainConfig) -> TrainConfig:
    """Return a run in which no patch is hidden."""
    return dataclasses.replace(config, mask=MaskRatio(low=0.0, high=0.0))


@torch.no_grad()
def encode(
    model: MIMFlow, config: TrainConfig, images: ImageSource | UInt8[Tensor, "b 3 h w"], stream: str
) -> Encoding:
    """Hide, encode and add noise to images, as in training but for :func:`judged_mask`.

    Args:
        model: The networks.
        config: The run, for mask and noise.
        images: Bytes; read as they are needed, so that they need not fit in memory.
        stream: Name of the random draws.
    """
    device = next(model.parameters()).device
    encoder = config.model.encoder
    draw = generator(config.seed, stream)
    masked = random_mask(len(images), encoder.num_patches, judged_mask(config), generator=draw)
    noise = torch.randn(len(images), encoder.num_latents, encoder.latent_dim, generator=draw)
    parts = []
    rows_of = torch.arange(len(images)).split(CHUNK)
    for rows, pixels in zip(rows_of, in_batches(images, CHUNK), strict=True):
        image = to_unit(pixels).to(device)
        posterior = model.encoder(image, masked[rows].to(device))
        parts.append(posterior.perturb(noise[rows].to(device)))
    return Encoding(masked, torch.cat(parts))


def decode(model: MIMFlow, z: Float[Tensor, "b k d"]) -> UInt8[Tensor, "b 3 h w"]:
    """Return the images that latents stand for, as bytes on the CPU."""
    return torch.cat([*decoded(model, z)])


@torch.no_grad()
def decoded(model: MIMFlow, z: Float[Tensor, "b k d"]) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
    """Yield the images that latents stand for in batches, as bytes on the CPU."""
    for part in z.split(CHUNK):
        yield to_bytes(model.decoder(part)).cpu()
