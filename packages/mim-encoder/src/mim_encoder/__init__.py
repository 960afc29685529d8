"""Masked ViT encoder: an image with hidden patches in, a fixed number of latent tokens out.

Names are loaded on first use, so ``from mim_encoder import EncoderConfig`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mim_encoder.config import EncoderConfig, MaskRatio, TrunkConfig
    from mim_encoder.encoder import MaskedEncoder
    from mim_encoder.masking import random_mask
    from mim_encoder.patches import mask_image, mask_to_pixels, patchify, unpatchify
    from mim_encoder.posterior import LatentPosterior
    from mim_encoder.readouts import LatentStatistics, latent_statistics, rate_bits
    from mim_encoder.trunk import ViTTrunk

__all__ = [
    "EncoderConfig",
    "LatentPosterior",
    "LatentStatistics",
    "MaskRatio",
    "MaskedEncoder",
    "TrunkConfig",
    "ViTTrunk",
    "latent_statistics",
    "mask_image",
    "mask_to_pixels",
    "patchify",
    "random_mask",
    "rate_bits",
    "unpatchify",
]

_MODULE_OF = {
    "EncoderConfig": "config",
    "LatentPosterior": "posterior",
    "LatentStatistics": "readouts",
    "MaskRatio": "config",
    "MaskedEncoder": "encoder",
    "TrunkConfig": "config",
    "ViTTrunk": "trunk",
    "latent_statistics": "readouts",
    "mask_image": "patches",
    "mask_to_pixels": "patches",
    "patchify": "patches",
    "random_mask": "masking",
    "rate_bits": "readouts",
    "unpatchify": "patches",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
