"""ViT decoders: latent tokens in, pixels or teacher features out.

Names are loaded on first use, so ``from vit_decoder import DecoderConfig`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vit_decoder.config import DecoderConfig, FeatureDecoderConfig
    from vit_decoder.features import FeatureDecoder
    from vit_decoder.pixels import PixelDecoder

__all__ = ["DecoderConfig", "FeatureDecoder", "FeatureDecoderConfig", "PixelDecoder"]

_MODULE_OF = {
    "DecoderConfig": "config",
    "FeatureDecoder": "features",
    "FeatureDecoderConfig": "config",
    "PixelDecoder": "pixels",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
