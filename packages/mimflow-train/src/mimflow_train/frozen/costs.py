"""What the frozen networks of a run cost for each image, computed without any weights."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import timm
import torch
from torch import nn
from torchvision.models import convnext_small, vgg16  # type: ignore[import-untyped]

from mimflow_train.config import TrainConfig
from mimflow_train.device.work import forward_work
from mimflow_train.frozen.clip import empty_image_tower
from mimflow_train.frozen.dino import DINO_NAME, DINO_SIZE
from mimflow_train.frozen.dinov2 import DINOV2_NAME
from mimflow_train.frozen.efflite0 import EffLite0Distance
from mimflow_train.frozen.perceptual import ConvNextDistance
from mimflow_train.frozen.teacher import PATCH

__all__ = ["FrozenCost", "frozen_costs"]

_VGG16_TRUNK = 30  # layers up to relu5_3, the last that LPIPS looks at
_TEACHER, _DISTANCE, _EYE = 1, 3, 4  # passes in a training step, see FrozenCost


class FrozenCost(NamedTuple):
    """One frozen network, and one forward pass of one image through it.

    Attributes:
        name: The network and its input.
        parameters: Numbers that it uses.
        gmac: 10^9 multiply-adds of its matrix products and convolutions.
        passes: Times this work in a training step, with gradients to the image but none to the
            weights: 1 for a teacher; 3 for a distance, which sees original and reconstruction; 4
            for a discriminator's eye, which learns from both and then judges a reconstruction.
    """

    name: str
    parameters: int
    gmac: float
    passes: int

    @property
    def in_joint_step(self) -> bool:
        """Whether a joint step uses it; a discriminator's backbone has its turn in the second."""
        return self.passes != _EYE


class _Network(NamedTuple):
    name: str
    size: int
    passes: int
    build: Callable[[], nn.Module]


def frozen_costs(config: TrainConfig) -> list[FrozenCost]:
    """Return the cost of each frozen network that a run needs, over both phases.

    Norms and activations are not counted: 0.1 to 0.3 % of the work. HOG has no weights and next to
    no work, and is left out.

    Args:
        config: The run.
    """
    return [_cost(each) for each in _networks(config)]


def _networks(config: TrainConfig) -> Iterator[_Network]:
    grid, size = config.model.encoder.grid, config.model.encoder.image_size
    pixels = PATCH * grid[0]
    teachers = {
        "efflite0": _efflite0(pixels, _TEACHER),
        "dinov2": _Network("DINOv2-B/16", pixels, _TEACHER, lambda: _dinov2(pixels)),
        "clip": _Network("CLIP-B/16", pixels, _TEACHER, lambda: empty_image_tower(grid)),
    }
    yield from (each for name, each in teachers.items() if name in config.trained_model.features)
    if config.loss.perceptual and config.loss.perceptual_network == "efflite0":
        yield _efflite0(max(size, EffLite0Distance.least_size), _DISTANCE)
    elif config.loss.perceptual:
        yield _Network("VGG16 to relu5_3", size, _DISTANCE, lambda: vgg16().features[:_VGG16_TRUNK])
        yield _Network("ConvNeXt-S", ConvNextDistance.size[0], _DISTANCE, convnext_small)
    if config.decoder_phase.steps and config.decoder_phase.discriminator.kind == "dino":
        yield _Network("DINO-S/8", DINO_SIZE[0], _EYE, lambda: timm.create_model(DINO_NAME))


def _efflite0(size: int, passes: int) -> _Network:
    return _Network("EfficientNet-Lite0 to stride 16", size, passes, _efflite0_stages)


def _efflite0_stages() -> nn.Module:
    name, stages = "tf_efficientnet_lite0", EffLite0Distance.stages
    network: nn.Module = timm.create_model(name, features_only=True, out_indices=stages)
    return network


def _dinov2(size: int) -> nn.Module:
    network: nn.Module = timm.create_model(DINOV2_NAME, img_size=size, patch_size=PATCH)
    return network


def _cost(network: _Network) -> FrozenCost:
    with torch.device("meta"):
        module, image = network.build().eval(), torch.empty(1, 3, network.size, network.size)
    name = f"{network.name}@{network.size}"
    return FrozenCost(name, *forward_work(module, image), network.passes)
