"""Everything random in training, as a function of (seed, stream, step): nothing to save.

Draws are made for the whole global batch and each worker takes its own rows, so the losses depend
on how many workers share the batch by rounding alone.
"""

import hashlib
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mim_encoder import random_mask
from mimflow_train.adversary.augment import NUM_UNIFORM
from mimflow_train.config import TrainConfig

_VIEWS = 3

__all__ = ["Draws", "draw_step", "drop_labels", "generator", "mirror"]


class Draws(NamedTuple):
    """What one training step needs besides images and labels.

    ``depth`` decides which branches of the pixel decoder are skipped (stochastic depth), and
    ``augment`` is for the three views that the decoder phase makes of each image.
    """

    masked: Bool[Tensor, "b n"]
    noise: Float[Tensor, "b k d"]
    dropped: Bool[Tensor, " b"]
    depth: Float[Tensor, "b depth 2"]
    augment: Float[Tensor, "b views 5"]


def generator(seed: int, stream: str, step: int = 0) -> torch.Generator:
    """Return a CPU generator that belongs to one purpose at one step.

    Of the seed's 63 bits torch's CPU generator keeps the low 32, so that of n generators about
    n^2 / 2^33 pairs draw the same: of millions a few thousand, each of other steps or purposes.

    Example:
        >>> a = torch.rand(2, generator=generator(0, "mask", 7))
        >>> torch.equal(a, torch.rand(2, generator=generator(0, "mask", 7)))
        True
    """
    digest = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def draw_step(config: TrainConfig, step: int, rows: slice, *, stream: int = 0) -> Draws:
    """Draw masks, latent noise and label drops of one step, for some rows of the global batch.

    Args:
        config: The run.
        step: Optimiser step, counted from 0.
        rows: The worker's rows of the global batch.
        stream: Roll-backs done, so that a step that diverged does not come again as it was.
    """
    batch, encoder = config.global_batch, config.model.encoder

    def draw(purpose: str) -> torch.Generator:
        return generator(config.seed, f"{purpose} {stream}" if stream else purpose, step)

    masked = random_mask(
        batch,
        encoder.num_patches,
        config.mask,
        generator=draw("mask"),
    )
    noise = torch.randn(
        batch,
        encoder.num_latents,
        encoder.latent_dim,
        generator=draw("latent noise"),
    )
    uniform = torch.rand(batch, generator=draw("label drop"))
    depth = torch.rand(batch, config.model.decoder.depth, 2, generator=draw("depth"))
    augment = torch.rand(batch, _VIEWS, NUM_UNIFORM, generator=draw("augment"))
    dropped = uniform < config.label_drop_prob
    return Draws(masked[rows], noise[rows], dropped[rows], depth[rows], augment[rows])


def drop_labels(label: Int64[Tensor, " b"], dropped: Bool[Tensor, " b"]) -> Int64[Tensor, " b"]:
    """Replace the dropped labels by -1, the null class."""
    return torch.where(dropped, -1, label)


def mirror(
    image: Float[Tensor, "b c h w"], config: TrainConfig, step: int, rows: slice
) -> Float[Tensor, "b c h w"]:
    """Mirror half of the images from left to right, if the data may be mirrored.

    Args:
        image: Some rows of the global batch.
        config: The run.
        step: Optimiser step, counted from 0.
        rows: Which rows these are.
    """
    if not config.data.flip:
        return image
    uniform = torch.rand(config.global_batch, generator=generator(config.seed, "flip", step))
    mirrored = (uniform[rows] < 0.5).to(image.device, non_blocking=True)
    return torch.where(mirrored[:, None, None, None], image.flip(-1), image)
