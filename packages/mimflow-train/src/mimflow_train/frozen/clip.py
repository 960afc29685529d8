"""OpenAI's CLIP ViT-B/16 as teacher, through open_clip."""

from pathlib import Path
from types import SimpleNamespace

import open_clip  # type: ignore[import-untyped]
import torch
from jaxtyping import Float
from open_clip.constants import (  # type: ignore[import-untyped]
    OPENAI_DATASET_MEAN,
    OPENAI_DATASET_STD,
)
from open_clip.model import resize_pos_embed  # type: ignore[import-untyped]
from torch import Tensor, nn

from mimflow_train.frozen.teacher import (
    PATCH,
    at_grid,
    cosine_distance,
    frozen,
    frozen_precision,
    standardized,
)
from mimflow_train.frozen.weights import PretrainedFile, loading, read_tensors

__all__ = ["CLIP_FILE", "ClipTeacher", "empty_image_tower"]

# OpenAI trained with QuickGELU; the same weights under plain GELU are subtly wrong.
_ARCHITECTURE = "ViT-B-16-quickgelu"
CLIP_FILE = PretrainedFile(
    network="CLIP ViT-B/16",
    name="vit_base_patch16_clip_224.openai.safetensors",
    url="https://huggingface.co/timm/vit_base_patch16_clip_224.openai"
    "/resolve/main/open_clip_model.safetensors",
    term="loss.feature",
    download=lambda: Path(
        open_clip.download_pretrained(open_clip.get_pretrained_cfg(_ARCHITECTURE, "openai"))
    ),
)


class ClipTeacher:
    """Patch tokens of CLIP's image tower after its last norm, before the projection to text.

    The positions are resampled to the grid, so that an image of the encoder's size has its patches.

    Args:
        file: Weights in open_clip's layout, of the whole model or the image tower alone.
        grid: Patches per column and row.
        device: Where the network runs, in the precision of :func:`frozen_precision`.

    Raises:
        WeightsError: If the file does not hold this network.
    """

    distance = staticmethod(cosine_distance)

    def __init__(self, file: Path, grid: tuple[int, int], device: torch.device) -> None:
        self.grid = grid
        self.device = device
        with loading(CLIP_FILE.network, file):
            network = _image_tower(file, grid)
        self.network = frozen(network, device)

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n f"]:
        """Return the features of each patch, in raster order, on the network's device."""
        with frozen_precision(self.device.type):
            resized = at_grid(image, self.grid, self.device).float()
            pixels = standardized(resized, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
            result = self.network.forward_intermediates(  # type: ignore[operator]
                pixels,
                indices=1,
                normalize_intermediates=True,
                intermediates_only=True,
                output_fmt="NLC",
            )
        tokens: Tensor = result["image_intermediates"][0]
        return tokens


def empty_image_tower(grid: tuple[int, int]) -> nn.Module:
    """Return CLIP's image tower for this grid of patches, on the meta device, without numbers."""
    config = open_clip.get_model_config(_ARCHITECTURE)
    config["vision_cfg"]["image_size"] = (PATCH * grid[0], PATCH * grid[1])
    with torch.device("meta"):
        tower: nn.Module = open_clip.CLIP(**config).visual
    return tower


def _image_tower(file: Path, grid: tuple[int, int]) -> nn.Module:
    prefix = "visual."
    state = read_tensors(file)
    if any(key.startswith(prefix) for key in state):
        state = {key: value for key, value in state.items() if key.startswith(prefix)}
    state = {prefix + key.removeprefix(prefix): value.float() for key, value in state.items()}
    tower = empty_image_tower(grid)
    resize_pos_embed(state, SimpleNamespace(visual=tower))
    tower.load_state_dict({key.removeprefix(prefix): v for key, v in state.items()}, assign=True)
    return tower
