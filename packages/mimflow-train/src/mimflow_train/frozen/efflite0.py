"""EfficientNet-Lite0 as teacher and as perceptual distance; its weights come as a package."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from genmetrics import efflite0_network, efflite0_normalize
from mimflow_train.frozen.teacher import at_grid, cosine_distance, frozen, frozen_precision

__all__ = ["EffLite0Distance", "EffLite0Teacher"]


class EffLite0Teacher:
    """ImageNet features of EfficientNet-Lite0 at stride 16, one vector for each patch.

    The image is enlarged so that the stride-16 map has the patch grid.

    Args:
        grid: Patches per column and row.
        device: Where the network runs.

    Raises:
        genmetrics.WeightsUnavailable: If the package with the weights is not installed.
    """

    distance = staticmethod(cosine_distance)

    def __init__(self, grid: tuple[int, int], device: torch.device) -> None:
        self.grid = grid
        self.device = device
        self.network = frozen(efflite0_network(), device)

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n f"]:
        """Return the features of each patch, in raster order, on the network's device."""
        (features,) = _stages(self.network, at_grid(image, self.grid, self.device), [3])
        return rearrange(features, "b f h w -> b (h w) f")


class EffLite0Distance:
    """Distance of two images in the first stages of EfficientNet-Lite0.

    LPIPS without its learned weights (arXiv 1801.03924, Eq. 1): at each stage the channels are
    scaled to unit length, squared differences are summed over channels and averaged over space.
    Images below 64 px are enlarged, since the network halves them at once.

    Args:
        network: EfficientNet-Lite0 of timm.
    """

    stages = (0, 1, 2, 3)
    least_size = 64

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    @classmethod
    def load(cls, device: torch.device) -> "EffLite0Distance":
        """Return the distance with the weights of their package.

        Args:
            device: Where the network runs.

        Raises:
            genmetrics.WeightsUnavailable: If the package with the weights is not installed.
        """
        return cls(frozen(efflite0_network(), device))

    @torch.no_grad()
    def of(self, target: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Return the features at each stage."""
        return self._features(target)

    def __call__(self, image: Float[Tensor, "b 3 h w"], wanted: list[Tensor]) -> Float[Tensor, ""]:
        """Return the mean distance over the batch to the features of another."""
        pairs = zip(self._features(image), wanted, strict=True)
        return torch.stack([_unit_distance(a, b) for a, b in pairs]).sum()

    def _features(self, image: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        if image.shape[-1] < self.least_size:
            size = (self.least_size, self.least_size)
            image = F.interpolate(image.float(), size, mode="bilinear")
        return _stages(self.network, image, list(self.stages))


def _stages(network: nn.Module, image: Float[Tensor, "b 3 h w"], which: list[int]) -> list[Tensor]:
    with frozen_precision(image.device.type):
        normalized = efflite0_normalize((image.float() + 1) / 2)
        normalized = normalized.contiguous(memory_format=torch.channels_last)
        maps: list[Tensor] = network.forward_intermediates(  # type: ignore[operator]
            normalized, indices=which, intermediates_only=True, stop_early=True
        )
    return maps


def _unit_distance(a: Float[Tensor, "b f h w"], b: Float[Tensor, "b f h w"]) -> Float[Tensor, ""]:
    """Return the mean square of the differences of unit vectors, ``2 - 2 cos`` at each place.

    Off by 1e-7 near zero; no vector may be zero, and none is, since the stages end in affine maps.
    """
    return 2 * (1 - F.cosine_similarity(a.float(), b.float(), dim=1)).mean()
