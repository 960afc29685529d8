"""The joint objective (Eq. 5-7): what the flow, the decoder and the feature decoders must do."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch.nn.functional as F
from einops import reduce
from jaxtyping import Bool, Float
from torch import Tensor

from mimflow_train.config import LossConfig
from mimflow_train.discriminator import hinge_generator
from mimflow_train.frozen.teacher import FeatureTarget, cosine_distance
from mimflow_train.model import MIMFlowOutput
from tarflow_prior import nll_per_dim

__all__ = [
    "Objective",
    "decoder_objective",
    "feature_loss",
    "joint_objective",
    "nll_floor",
    "pixel_loss",
]


class Objective(NamedTuple):
    """The number to minimise, and the terms it is made of, unweighted."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


def joint_objective(
    output: MIMFlowOutput,
    image: Float[Tensor, "b c h w"],
    masked: Bool[Tensor, "b n"],
    *,
    weights: LossConfig,
    targets: Mapping[str, FeatureTarget],
    perceptual: Callable[[Tensor, Tensor], Tensor] | None,
) -> Objective:
    """Weigh NLL (Eq. 4), pixels and perception (Eq. 5) and features (Eq. 7).

    Args:
        output: What the model made of the image.
        image: The images in [-1, 1], before masking.
        masked: True where a patch was hidden.
        weights: Weight of each term.
        targets: Each teacher's features of the images, and how they are compared.
        perceptual: Distance of two image batches; None leaves the term out.
    """
    terms = {
        "nll": nll_per_dim(output.flow).mean(),
        "pixel": pixel_loss(output.image, image),
    }
    total = weights.nll * terms["nll"] + weights.pixel * terms["pixel"]
    if perceptual is not None:
        terms["perceptual"] = perceptual(output.image, image)
        total = total + weights.perceptual * terms["perceptual"]
    for name, target in targets.items():
        terms[name] = feature_loss(output.features[name], target.features, masked, target.distance)
        total = total + weights.feature * terms[name]
    return Objective(total, terms)


def decoder_objective(
    image: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    logits: Float[Tensor, "b 1 rows columns"],
    *,
    weights: LossConfig,
    gan_weight: float,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None,
) -> Objective:
    """Weigh pixels, perception and the discriminator's verdict (Eq. 8).

    Args:
        image: What was decoded.
        target: The images in [-1, 1], before masking.
        logits: The discriminator's of the decoded images.
        weights: Weight of pixels and perception.
        gan_weight: Weight of the verdict.
        perceptual: Distance of two image batches; None leaves the term out.
    """
    terms = {"pixel": pixel_loss(image, target), "gan": hinge_generator(logits)}
    total = weights.pixel * terms["pixel"] + gan_weight * terms["gan"]
    if perceptual is not None:
        terms["perceptual"] = perceptual(image, target)
        total = total + weights.perceptual * terms["perceptual"]
    return Objective(total, terms)


def pixel_loss(
    image: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]
) -> Float[Tensor, ""]:
    """Mean squared error over the whole image, on the [0, 1] range of pixels.

    Example:
        >>> import torch
        >>> pixel_loss(torch.ones(1, 3, 2, 2), -torch.ones(1, 3, 2, 2)).item()
        1.0
    """
    return F.mse_loss(image.float(), target.float()) / 4


def feature_loss(
    features: Float[Tensor, "b n f"],
    target: Float[Tensor, "b n f"],
    masked: Bool[Tensor, "b n"],
    distance: Callable[[Tensor, Tensor], Tensor] = cosine_distance,
) -> Float[Tensor, ""]:
    """Mean distance over the hidden patches of the batch (Eq. 7); 0 if none is hidden.

    Args:
        features: What a feature decoder predicts.
        target: The teacher's features.
        masked: True where a patch was hidden.
        distance: How far the two are apart in each patch, ``(b, n)``.
    """
    distances = distance(features, target)
    hidden = reduce(masked.float(), "b n ->", "sum").clamp(min=1)
    return (distances * masked).sum() / hidden


def nll_floor(sigma: float) -> float:
    """Least NLL per dimension that noise of this sigma allows: entropy of the noise.

    In the convention of ``joint_objective``, which leaves out the constant ``ln(2 pi) / 2``. An
    NLL at the floor means that the latents carry nothing about the image.

    Example:
        >>> round(nll_floor(0.3), 3)
        -0.704
    """
    return 0.5 + math.log(sigma)
