"""DINOv2 ViT-B as teacher, through timm."""

from pathlib import Path

import timm
import torch
from jaxtyping import Float
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from mimflow_train.frozen.teacher import (
    PATCH,
    at_grid,
    cosine_distance,
    frozen,
    frozen_precision,
    standardized,
)
from mimflow_train.frozen.weights import PretrainedFile, hub_file, loading

__all__ = ["DINOV2_FILE", "DINOV2_NAME", "DinoV2Teacher"]

DINOV2_NAME = "vit_base_patch14_dinov2.lvd142m"
_PREFIX_TOKENS = 1  # the class token
_URL = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth"
DINOV2_FILE = PretrainedFile(
    network="DINOv2 ViT-B/14",
    name="dinov2_vitb14_pretrain.pth",
    url=_URL,
    term="loss.feature",
    download=lambda: hub_file(_URL, ""),
)


class DinoV2Teacher:
    """Patch tokens of DINOv2 ViT-B after its last norm.

    The 14 px patches are resampled to 16 px and the positions to the grid, so that an image of the
    encoder's size has the encoder's patches (REPA's and MAETok's ``repa_patch_size: 16``).

    Args:
        file: Weights in the layout of Meta's release or of timm, .pth or .safetensors.
        grid: Patches per column and row.
        device: Where the network runs, in the precision of :func:`frozen_precision`.

    Raises:
        WeightsError: If the file does not hold this network.
    """

    distance = staticmethod(cosine_distance)

    def __init__(self, file: Path, grid: tuple[int, int], device: torch.device) -> None:
        self.grid = grid
        self.device = device
        with loading(DINOV2_FILE.network, file):
            network = timm.create_model(
                DINOV2_NAME,
                pretrained=True,
                pretrained_cfg_overlay={"file": str(file)},
                img_size=(PATCH * grid[0], PATCH * grid[1]),
                patch_size=PATCH,
            )
        self.network = frozen(network, device)

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n f"]:
        """Return the features of each patch, in raster order, on the network's device."""
        with frozen_precision(self.device.type):
            resized = at_grid(image, self.grid, self.device).float()
            pixels = standardized(resized, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
            tokens: Tensor = self.network.forward_features(pixels)  # type: ignore[operator]
        return tokens[:, _PREFIX_TOKENS:]
