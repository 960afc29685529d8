"""Frozen networks that the training looks at: feature targets (Eq. 7) and perceptual distance.

Both see images in [-1, 1]. They are never part of the model, so no state dict holds them.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn

from genmetrics import efflite0_network, efflite0_normalize
from mimflow_train.data.images import ImageSource, to_unit

__all__ = ["EffLite0Teacher", "PerceptualDistance", "feature_bank"]

_CHUNK = 64


class EffLite0Teacher:
    """ImageNet features of EfficientNet-Lite0 at stride 16, one vector for each patch.

    The image is enlarged so that the stride-16 map has the patch grid.

    Args:
        grid: Patches per column and row.
        device: Where the network runs.

    Raises:
        genmetrics.WeightsUnavailable: If the package with the weights is not installed.
    """

    dim = 112

    def __init__(self, grid: tuple[int, int], device: torch.device) -> None:
        self.size = (16 * grid[0], 16 * grid[1])
        self.network = efflite0_network().to(device)

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n f"]:
        """Return the features of each patch, in raster order."""
        enlarged = F.interpolate(image, self.size, mode="bilinear", antialias=True)
        (features,) = _stages(self.network, enlarged, [3])
        return rearrange(features, "b f h w -> b (h w) f")


class PerceptualDistance:
    """Distance of two images in the first stages of EfficientNet-Lite0.

    LPIPS without its learned weights (arXiv 1801.03924, Eq. 1): at each stage the channels are
    scaled to unit length, squared differences are summed over channels and averaged over space.

    Args:
        device: Where the network runs.
    """

    stages = (0, 1, 2, 3)

    def __init__(self, device: torch.device) -> None:
        self.network = efflite0_network().to(device)

    def __call__(
        self, image: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, ""]:
        """Return the mean distance over the batch; gradients reach ``image`` only."""
        stages = list(self.stages)
        with torch.no_grad():
            wanted = _stages(self.network, target, stages)
        pairs = zip(_stages(self.network, image, stages), wanted, strict=True)
        return torch.stack([_unit_distance(a, b) for a, b in pairs]).sum()


def feature_bank(
    teacher: Callable[[Tensor], Tensor],
    images: ImageSource,
    *,
    progress: Callable[[Sequence[int]], Sequence[int]] = lambda chunks: chunks,
) -> Float[Tensor, "m n f"]:
    """Return a teacher's features of every image of a small set, computed once.

    Args:
        teacher: Maps images in [-1, 1] to one vector for each patch.
        images: The set; its features must fit in memory.
        progress: Wraps the chunks, such as tqdm.
    """
    features = [
        teacher(to_unit(torch.stack([images[i] for i in range(at, min(at + _CHUNK, len(images)))])))
        for at in progress(range(0, len(images), _CHUNK))
    ]
    return torch.cat(features).half()


def _stages(network: nn.Module, image: Float[Tensor, "b 3 h w"], which: list[int]) -> list[Tensor]:
    with torch.autocast(image.device.type, enabled=False):
        normalized = efflite0_normalize((image.float() + 1) / 2)
        maps: list[Tensor] = network.forward_intermediates(  # type: ignore[operator]
            normalized, indices=which, intermediates_only=True, stop_early=True
        )
    return maps


def _unit_distance(a: Float[Tensor, "b f h w"], b: Float[Tensor, "b f h w"]) -> Float[Tensor, ""]:
    a = F.normalize(a.float(), dim=1, eps=1e-6)
    b = F.normalize(b.float(), dim=1, eps=1e-6)
    return reduce((a - b).square(), "b f h w -> b h w", "sum").mean()
