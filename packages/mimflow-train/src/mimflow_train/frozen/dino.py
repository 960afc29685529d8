"""DINO ViT-S/8, the eye of the discriminator that RAE trains its decoder against."""

from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from mimflow_train.frozen.teacher import frozen, frozen_precision, standardized
from mimflow_train.frozen.weights import PretrainedFile, hub_file, loading

__all__ = ["DINO_FILE", "DINO_NAME", "DINO_SIZE", "DinoTokens"]

DINO_NAME = "vit_small_patch8_224.dino"
DINO_SIZE = (224, 224)
_DEPTHS = (2, 5, 8, 11)  # blocks that are looked at; the last one twice
_URL = "https://dl.fbaipublicfiles.com/dino/dino_deitsmall8_pretrain/dino_deitsmall8_pretrain.pth"
DINO_FILE = PretrainedFile(
    network="DINO ViT-S/8",
    name="dino_deitsmall8_pretrain.pth",
    url=_URL,
    term="decoder_phase.steps",
    download=lambda: hub_file(_URL, ""),
)


class DinoTokens:
    """Patch tokens of DINO ViT-S/8 after blocks 2, 5, 8 and 11, and once more after 11.

    Gradients pass to the image. Biases of the keys, which RAE sets to zero, change nothing in a
    softmax over keys and stay.

    Args:
        file: Weights in the layout of Meta's release or of timm, .pth or .safetensors.
        device: Where the network runs, in the precision of :func:`frozen_precision`.

    Raises:
        WeightsError: If the file does not hold this network.
    """

    width = 384
    num_depths = 1 + len(_DEPTHS)

    def __init__(self, file: Path, device: torch.device) -> None:
        with loading(DINO_FILE.network, file):
            network = timm.create_model(
                DINO_NAME, pretrained=True, pretrained_cfg_overlay={"file": str(file)}
            )
        self.network = frozen(network, device)

    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b n d"]]:
        """Return the tokens of images in [-1, 1], which are resized to 224 px."""
        with frozen_precision(image.device.type):
            resized = F.interpolate(image.float(), DINO_SIZE, mode="bilinear")
            pixels = standardized(resized, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
            tokens: list[Tensor] = self.network.forward_intermediates(  # type: ignore[operator]
                pixels, indices=list(_DEPTHS), output_fmt="NLC", intermediates_only=True
            )
        return [tokens[-1], *tokens]
