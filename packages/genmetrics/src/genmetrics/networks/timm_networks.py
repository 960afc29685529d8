"""Any model of timm as a feature network, and DINOv2 as its authors run it."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor, nn

from genmetrics.errors import UsageError, WeightsUnavailable, did_you_mean
from genmetrics.networks.preprocessing import Preprocessing, scaled_side
from genmetrics.networks.pretrained_networks import (
    PretrainedFeatures,
    checked_interpolation,
    import_library,
    misfit,
)
from genmetrics.networks.weights import find_weights, hub_file, load_state_dict

DINOV2_MODEL = "vit_large_patch14_dinov2.lvd142m"
DINOV2_REPOSITORY = f"timm/{DINOV2_MODEL}"
DINOV2_FILE = "dinov2_vitl14_pretrain"
DINOV2_URL = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/{DINOV2_FILE}.pth"
DINOV2_PREPROCESSING = Preprocessing(size=224, scaled=224, squash=True, interpolation="bicubic")
_PATCH, _TRAINED_SIDE = 14, 37  # pixels; patches per side of the release's table
_FILES = ("model.safetensors", "pytorch_model.bin")


def timm_features(name: str, weights: Path | None = None) -> PretrainedFeatures:
    """Build a model of timm without its classifier: pooled features, or the class token.

    Args:
        name: As ``timm.list_models`` has it, with or without a tag.
        weights: A state dict of timm's own layout; None searches.

    Raises:
        UsageError: If timm has no such model, or its preprocessing is not supported.
        WeightsUnavailable: If timm or the weights are missing, or the weights do not fit.
    """
    timm = import_library("timm", "timm")
    configuration = _configuration(timm, name)
    preprocessing = _preprocessing(name, configuration)
    file = find_weights(weights, [name], lambda: _hub_file(name, configuration), f"timm:{name}")
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    heads = configuration.classifier or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    state = {
        key: value
        for key, value in load_state_dict(file).items()
        if not key.startswith(tuple(f"{head}." for head in heads))
    }
    _load(network, state, file, f"timm:{name}")
    return PretrainedFeatures(network, preprocessing, file)


def find_dinov2_weights(weights: Path | None = None, *, download: bool | None = None) -> Path:
    """Return the file of DINOv2 ViT-L/14: the release's or timm's.

    Args:
        weights: A file, or None to search.
        download: Whether to fetch what is nowhere; None for yes unless offline.

    Raises:
        WeightsUnavailable: If no file is found.
    """
    return find_weights(
        weights,
        [DINOV2_FILE, DINOV2_MODEL],
        lambda: hub_file(DINOV2_REPOSITORY, _FILES, download=download),
        "dinov2",
    )


def dinov2_features(file: Path, model: str = DINOV2_MODEL) -> PretrainedFeatures:
    """Build DINOv2 at 224 px with the position table resampled as in its original code.

    The feature is the class token after the last norm. timm would resample the table with
    antialiasing, which gives other features.

    Args:
        file: The release's weights or timm's.
        model: timm's name of the network.

    Raises:
        WeightsUnavailable: If timm is missing or the weights do not fit.
    """
    timm = import_library("timm", "timm")
    side = DINOV2_PREPROCESSING.size
    network: nn.Module = timm.create_model(
        model, pretrained=False, num_classes=0, img_size=side, global_pool="token"
    )
    state = load_state_dict(file)
    state.pop("mask_token", None)  # of the release's training, unused by its features
    table = state.get("pos_embed")
    if table is not None and table.shape[:2] == (1, 1 + _TRAINED_SIDE**2):
        state["pos_embed"] = dinov2_positions(table, side // _PATCH)
    _load(network, state, file, "DINOv2")
    return PretrainedFeatures(network, DINOV2_PREPROCESSING, file, ";positions-bicubic+0.1")


def dinov2_positions(table: Float32[Tensor, "1 n d"], side: int) -> Float32[Tensor, "1 m d"]:
    """Resample a position table to a grid: plain bicubic, at the scale ``(side + 0.1) / old side``.

    Args:
        table: The class token's position, then those of a square grid of patches.
        side: Patches per side of the new grid.

    Example:
        >>> dinov2_positions(torch.ones(1, 1 + 37**2, 2), 16).shape
        torch.Size([1, 257, 2])
    """
    old = round((table.shape[1] - 1) ** 0.5)
    grid = table[:, 1:].reshape(1, old, old, -1).movedim(-1, 1)
    scale = (side + 0.1) / old
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([table[:, :1], grid.flatten(2).mT], dim=1)


def _load(network: nn.Module, state: Mapping[str, Tensor], file: Path, what: str) -> None:
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise misfit(what, file, error) from error


def _configuration(timm: ModuleType, name: str) -> Any:
    try:
        configuration = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError as error:  # a tag that the model does not have
        raise UsageError(f"Expected a model of timm; got timm:{name}: {error}") from error
    if configuration is None:
        advice = did_you_mean(name, timm.list_models()) or " timm.list_models() lists them."
        raise UsageError(f"Expected a model of timm; got timm:{name}.{advice}")
    return configuration


def _preprocessing(name: str, configuration: Any) -> Preprocessing:
    _, height, width = configuration.input_size
    mode = configuration.crop_mode
    if height != width or mode not in ("center", "squash"):
        raise UsageError(
            f"Expected a model of timm that sees squares, squashed or cut from the middle; "
            f"timm:{name} sees {width}x{height}, {mode}. Choose another model."
        )
    return Preprocessing(
        size=height,
        scaled=scaled_side(height, configuration.crop_pct),
        squash=mode == "squash",
        interpolation=checked_interpolation(name, configuration.interpolation),
        mean=configuration.mean,
        std=configuration.std,
    )


def _hub_file(name: str, configuration: Any) -> Path:
    if not configuration.hf_hub_id:
        raise WeightsUnavailable(f"Expected published weights of timm:{name}; timm knows none.")
    files = (configuration.hf_hub_filename,) if configuration.hf_hub_filename else _FILES
    return hub_file(configuration.hf_hub_id, files)
