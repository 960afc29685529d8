"""What flow, decoder and feature decoders must do (Eq. 5-7); the adversary is elsewhere."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor

from mimflow_train.config import LossConfig
from mimflow_train.frozen.teacher import FeatureTarget, cosine_distance
from mimflow_train.model import MIMFlowOutput
from tarflow_prior import nll_per_dim

__all__ = [
    "Objective",
    "feature_loss",
    "joint_objective",
    "nll_floor",
    "pixel_loss",
    "reconstruction_objective",
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
    perceptual: Callable[[Tensor], Tensor] | None,
) -> Objective:
    """Weigh NLL (Eq. 4), pixels and perception (Eq. 5) and features (Eq. 7).

    Args:
        output: What the model made of the image.
        image: The images in [-1, 1], before masking.
        masked: True where a patch was hidden.
        weights: Weight of each term.
        targets: Each teacher's features of the images, and how they are compared.
        perceptual: Distance of an image batch to the images; None leaves the term out.
    """
    rebuilt = reconstruction_objective(
        output.image, image, masked, weights=weights, perceptual=perceptual
    )
    terms = {"nll": nll_per_dim(output.flow).mean(), **rebuilt.terms}
    total = weights.nll * terms["nll"] + rebuilt.total
    for name, target in targets.items():
        terms[name] = feature_loss(output.features[name], target.features, masked, target.distance)
        total = total + weights.feature * terms[name]
    return Objective(total, terms)


def reconstruction_objective(
    image: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    masked: Bool[Tensor, "b n"],
    *,
    weights: LossConfig,
    perceptual: Callable[[Tensor], Tensor] | None,
) -> Objective:
    """Weigh pixels and perception, which are in the objective of either phase (Eq. 5, 8).

    Args:
        image: What the decoder made.
        target: The images in [-1, 1], before masking.
        masked: True where a patch was hidden.
        weights: Weight of either term.
        perceptual: Distance of an image batch to the images; None leaves the term out.
    """
    terms = {"pixel": pixel_loss(image, target, masked, weights.hidden_pixels)}
    total = weights.pixel * terms["pixel"]
    if perceptual is not None:
        terms["perceptual"] = perceptual(image)
        total = total + weights.perceptual * terms["perceptual"]
    return Objective(total, terms)


def pixel_loss(
    image: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    masked: Bool[Tensor, "b n"],
    hidden_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """Mean squared error on the [0, 1] range of pixels, a weighted mean within each image.

    Args:
        image: What the decoder made.
        target: The images in [-1, 1].
        masked: True where one of a square grid of patches was hidden.
        hidden_weight: Weight of a hidden pixel where a visible one's is 1 (Table 9).

    Example:
        >>> import torch
        >>> image, seen = torch.ones(1, 3, 2, 2), torch.tensor([[False]])
        >>> pixel_loss(image, -image, seen).item()
        1.0
    """
    if hidden_weight == 1:
        return F.mse_loss(image.float(), target.float()) / 4
    error = reduce((image.float() - target.float()).square(), "b c h w -> b h w", "mean") / 4
    side = math.isqrt(masked.shape[1])
    hidden = rearrange(masked, "b (row column) -> b 1 row column", row=side).float()
    weight = 1 + (hidden_weight - 1) * F.interpolate(hidden, error.shape[1:])[:, 0]
    mean_error = (weight * error).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-12)
    return mean_error.mean()


def feature_loss(
    features: Float[Tensor, "b n f"],
    target: Float[Tensor, "b n f"],
    masked: Bool[Tensor, "b n"],
    distance: Callable[[Tensor, Tensor], Tensor] = cosine_distance,
) -> Float[Tensor, ""]:
    """Mean distance over the hidden patches of each image (Eq. 7), and over the images.

    An image of which nothing is hidden counts with all its patches.

    Args:
        features: What a feature decoder predicts.
        target: The teacher's features.
        masked: True where a patch was hidden.
        distance: How far the two are apart in each patch, ``(b, n)``.
    """
    distances = distance(features, target)
    counted = masked | ~masked.any(dim=1, keepdim=True)
    return ((distances * counted).sum(dim=1) / counted.sum(dim=1)).mean()


def nll_floor(sigma: float) -> float:
    """Least NLL per dimension that noise of this sigma allows: entropy of the noise.

    In the convention of ``joint_objective``, which leaves out the constant ``ln(2 pi) / 2``. An
    NLL at the floor means that the latents carry nothing about the image.

    Example:
        >>> round(nll_floor(0.3), 3)
        -0.704
    """
    return 0.5 + math.log(sigma)
