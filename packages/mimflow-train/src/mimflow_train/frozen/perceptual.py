"""The released perceptual term: LPIPS on VGG16 and the logits of ConvNeXt-S (Eq. 5)."""

import warnings
from pathlib import Path
from typing import Protocol, runtime_checkable

import lpips  # type: ignore[import-untyped]
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision.models import convnext_small  # type: ignore[import-untyped]

from mimflow_train.frozen.teacher import frozen, frozen_precision, standardized
from mimflow_train.frozen.weights import PretrainedFile, hub_file, loading, read_tensors

__all__ = [
    "CONVNEXT_FILE",
    "VGG16_FILE",
    "ConvNextDistance",
    "LpipsDistance",
    "PerceptualDistance",
    "PerceptualLoss",
    "level_distance",
    "lpips_network",
]

_LAYOUT = torch.channels_last  # in which convolutions are fast
_LEAST_LENGTH = 1e-10  # as in the lpips package
_HUB = "https://download.pytorch.org/models/"


def _torchvision_file(network: str, stem: str, sha256: str) -> PretrainedFile:
    """Describe a file of torchvision, whose name ends in the start of its digest."""
    name = f"{stem}-{sha256}.pth"
    return PretrainedFile(
        network=network,
        name=name,
        url=_HUB + name,
        sha256=sha256,
        term="loss.perceptual",
        download=lambda: hub_file(_HUB + name, sha256),
    )


VGG16_FILE = _torchvision_file("VGG16", "vgg16", "397923af")
CONVNEXT_FILE = _torchvision_file("ConvNeXt-S", "convnext_small", "0c510722")


@runtime_checkable
class PerceptualDistance(Protocol):
    """A frozen distance of two image batches in [-1, 1]: ``distance(image, distance.of(target))``.

    All that depends on the target alone can be computed before the image is made.
    """

    def of(self, target: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Return what the network sees in the target, without gradients."""

    def __call__(self, image: Float[Tensor, "b 3 h w"], wanted: list[Tensor]) -> Float[Tensor, ""]:
        """Return the mean distance over the batch to what ``of`` has returned."""


class LpipsDistance:
    """LPIPS 0.1 on VGG16, with the linear weights of the lpips package.

    Args:
        network: ``lpips.LPIPS``; VGG16 runs in the precision of :func:`frozen_precision`.
        compiled: Run :func:`level_distance` through ``torch.compile``, once for each level.
    """

    def __init__(self, network: nn.Module, *, compiled: bool = False) -> None:
        self.network = network
        linear = [each.model[-1].weight for each in network.lins]  # type: ignore[union-attr]
        self.weights = [rearrange(each, "1 c 1 1 -> c").float() for each in linear]
        self.level_distance = level_distance
        if compiled:
            self.level_distance = torch.compile(level_distance, dynamic=False)

    @classmethod
    def load(cls, file: Path, device: torch.device, *, compiled: bool = False) -> "LpipsDistance":
        """Return the distance with published weights.

        Args:
            file: VGG16 in torchvision's layout; its classifier may be missing.
            device: Where the network runs.
            compiled: As for the class.

        Raises:
            WeightsError: If the file does not hold this network.
        """
        network = lpips_network(linear_weights=True)
        with loading(VGG16_FILE.network, file):
            vgg16, trunk = read_tensors(file), network.net
            # lpips cuts torchvision's `features` into slices and keeps the number of each layer.
            keys = {key: f"features.{key.partition('.')[2]}" for key in trunk.state_dict()}
            trunk.load_state_dict({ours: vgg16[theirs] for ours, theirs in keys.items()})
        frozen(trunk, device)  # alone: the linear weights stay in float32
        return cls(network.to(device, memory_format=_LAYOUT), compiled=compiled)

    @torch.no_grad()
    def of(self, target: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Return the features at each level."""
        return self._features(target)

    def __call__(self, image: Float[Tensor, "b 3 h w"], wanted: list[Tensor]) -> Float[Tensor, ""]:
        """Return the mean distance over the batch to the features of another."""
        levels = zip(self._features(image), wanted, self.weights, strict=True)
        with torch.autocast(image.device.type, enabled=False):
            return torch.stack([self.level_distance(*each) for each in levels]).sum()

    def _features(self, image: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        with frozen_precision(image.device.type):
            pixels = self.network.scaling_layer(image.float())  # type: ignore[operator]
            pixels = pixels.contiguous(memory_format=_LAYOUT)
            return list(self.network.net(pixels))  # type: ignore[operator]


def level_distance(
    features: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    weight: Float[Tensor, " c"],
) -> Float[Tensor, ""]:
    """Return LPIPS at one level: ``sum_c weight_c (x_c / |x| - y_c / |y|)^2``, a mean over places.

    In float32 whatever the features are in.

    Args:
        features: Of the images, each place a vector that is scaled to unit length.
        target: Of the images that they are compared with.
        weight: Of each feature, not below 0.

    Example:
        >>> x, y = torch.tensor([[2.0, 0.0], [0.0, 3.0]])[:, None, :, None, None]
        >>> level_distance(x, y, torch.tensor([5.0, 7.0]))
        tensor(12.)
    """
    square = (_unit(features) - _unit(target)).square()
    # A matrix times a vector reads what it needs once; compiled, it is part of the one kernel.
    return (rearrange(square, "b c h w -> (b h w) c") @ weight).mean()


def _unit(features: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True, dtype=torch.float32)
    return features * (length + _LEAST_LENGTH).reciprocal()


def lpips_network(*, linear_weights: bool) -> lpips.LPIPS:
    """Return LPIPS on a VGG16 of random numbers, none of which learns.

    Args:
        linear_weights: Whether the weights of the linear layers are those of the lpips package.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision with an argument of old
        network = lpips.LPIPS(net="vgg", pnet_rand=True, pretrained=linear_weights, verbose=False)
    return network.requires_grad_(requires_grad=False)


class ConvNextDistance:
    """Mean square difference of the 1000 ImageNet logits of ConvNeXt-S, at 224 px.

    Args:
        network: torchvision's ConvNeXt-S; it runs in the precision of :func:`frozen_precision`.
    """

    size = (224, 224)

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    @classmethod
    def load(cls, file: Path, device: torch.device) -> "ConvNextDistance":
        """Return the distance with published weights.

        Args:
            file: ConvNeXt-S in torchvision's layout.
            device: Where the network runs.

        Raises:
            WeightsError: If the file does not hold this network.
        """
        with torch.device("meta"):
            network: nn.Module = convnext_small()
        with loading(CONVNEXT_FILE.network, file):
            network.load_state_dict(read_tensors(file), assign=True)
        return cls(frozen(network, device).to(memory_format=_LAYOUT))

    @torch.no_grad()
    def of(self, target: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Return the logits, as the one tensor."""
        return [self._logits(target)]

    def __call__(self, image: Float[Tensor, "b 3 h w"], wanted: list[Tensor]) -> Float[Tensor, ""]:
        """Return the mean distance over the batch to the logits of another."""
        (logits,) = wanted
        return F.mse_loss(self._logits(image), logits)

    def _logits(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1000"]:
        with frozen_precision(image.device.type):
            resized = F.interpolate(image.float(), self.size, mode="bilinear", antialias=True)
            pixels = standardized(resized, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
            logits: Tensor = self.network(pixels)
        return logits


class PerceptualLoss:
    """``(LPIPS + 0.1 ConvNeXt) / 1.1``; the paper's weight of 1.1 cancels the denominator.

    Args:
        lpips: The first term, such as ``LpipsDistance``.
        logits: The second, such as ``ConvNextDistance``, which looks at one tensor.
    """

    def __init__(self, lpips: PerceptualDistance, logits: PerceptualDistance) -> None:
        self.lpips = lpips
        self.logits = logits

    def of(self, target: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Return what the first distance looks at, and the logits behind it."""
        return [*self.lpips.of(target), *self.logits.of(target)]

    def __call__(self, image: Float[Tensor, "b 3 h w"], wanted: list[Tensor]) -> Float[Tensor, ""]:
        """Return the mean distance over the batch to what ``of`` has returned."""
        *features, logits = wanted
        return (self.lpips(image, features) + 0.1 * self.logits(image, [logits])) / 1.1
