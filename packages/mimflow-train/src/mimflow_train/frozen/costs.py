"""What the frozen networks of the paper cost for each image, computed without any weights."""

from collections.abc import Callable
from typing import NamedTuple

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import convnext_small, vgg16  # type: ignore[import-untyped]

from mimflow_train.frozen.clip import empty_image_tower
from mimflow_train.frozen.dinov2 import DINOV2_NAME
from mimflow_train.frozen.perceptual import ConvNextDistance
from mimflow_train.frozen.teacher import PATCH

__all__ = ["FrozenCost", "frozen_costs"]

_VGG16_TRUNK = 30  # layers up to relu5_3, the last that LPIPS looks at


class FrozenCost(NamedTuple):
    """One forward pass of one image.

    Attributes:
        name: The network and its input.
        parameters: Numbers that it holds in memory.
        gmac: 10^9 multiply-adds of its matrix products and convolutions.
    """

    name: str
    parameters: int
    gmac: float


def frozen_costs(image_size: int) -> list[FrozenCost]:
    """Return the cost of each frozen network for square images of patches of 16 px.

    A perceptual network sees every image twice, original and reconstruction, and is differentiated
    for the second. Norms and activations are not counted: 0.1 to 0.3 %.

    Args:
        image_size: Pixels per side, a multiple of 16.
    """
    grid = (image_size // PATCH, image_size // PATCH)
    small = ConvNextDistance.size[0]
    return [
        _cost(f"DINOv2-B/16@{image_size}", lambda: _dinov2(image_size), image_size),
        _cost(f"CLIP-B/16@{image_size}", lambda: empty_image_tower(grid), image_size),
        _cost(
            f"VGG16 to relu5_3@{image_size}", lambda: vgg16().features[:_VGG16_TRUNK], image_size
        ),
        _cost(f"ConvNeXt-S@{small}", convnext_small, small),
    ]


def _dinov2(image_size: int) -> nn.Module:
    network: nn.Module = timm.create_model(DINOV2_NAME, img_size=image_size, patch_size=PATCH)
    return network


def _cost(name: str, build: Callable[[], nn.Module], size: int) -> FrozenCost:
    with torch.device("meta"):
        network, image = build().eval(), torch.empty(1, 3, size, size)
    with FlopCounterMode(display=False) as counter:
        network(image)
    parameters = sum(each.numel() for each in network.parameters())
    return FrozenCost(name, parameters, counter.get_total_flops() / 2e9)
