"""Both autoencoders of Table 2, counted on the meta device by one counter.

SD-VAE's shape is here to be counted and not to be run. It is written from the published
configuration of stabilityai/sd-vae-ft-ema: widths 128, 256, 512, 512, two residual blocks a level
in the encoder and three in the decoder, attention at the bottom.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mim_encoder import MaskedEncoder
from mimflow_train.config import ModelConfig
from mimflow_train.costs import PartCost
from vit_decoder import PixelDecoder

__all__ = ["sd_vae_cost", "vit_cost"]

_WIDTHS = (128, 256, 512, 512)
_LATENT = 4
_GROUPS = 32


def sd_vae_cost(size: int = 256) -> PartCost:
    """Count encoder and decoder without weights, for one image.

    Args:
        size: Side of the image in pixels.
    """
    with torch.device("meta"):
        return _cost("SD-VAE", _SdVae(), size)


def vit_cost(config: ModelConfig) -> PartCost:
    """Count encoder and pixel decoder without weights, for one whole image.

    Args:
        config: Sizes of the two.
    """
    with torch.device("meta"):
        return _cost("ViT", _Vit(config), config.encoder.image_size)


def _cost(name: str, network: nn.Module, size: int) -> PartCost:
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, size, size))
    parameters = sum(each.numel() for each in network.parameters())
    return PartCost(name, parameters, counter.get_total_flops() / 2e9)


class _Vit(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = MaskedEncoder(config.encoder)
        self.decoder = PixelDecoder(config.decoder)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        rebuilt: Tensor = self.decoder(self.encoder(image).mean)
        return rebuilt


class _SdVae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*_encoder(), nn.Conv2d(2 * _LATENT, 2 * _LATENT, 1))
        self.decoder = nn.Sequential(nn.Conv2d(_LATENT, _LATENT, 1), *_decoder())

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        mean, _ = self.encoder(image).chunk(2, dim=1)
        rebuilt: Tensor = self.decoder(mean)
        return rebuilt


def _encoder() -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(3, _WIDTHS[0], 3, padding=1)]
    width = _WIDTHS[0]
    for level, wanted in enumerate(_WIDTHS):
        layers += [_Residual(width, wanted), _Residual(wanted, wanted)]
        width = wanted
        if level < len(_WIDTHS) - 1:
            layers += [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(width, width, 3, stride=2)]
    return [*layers, *_middle(width), *_end(width, 2 * _LATENT)]


def _decoder() -> list[nn.Module]:
    width = _WIDTHS[-1]
    layers: list[nn.Module] = [nn.Conv2d(_LATENT, width, 3, padding=1), *_middle(width)]
    for level, wanted in enumerate(reversed(_WIDTHS)):
        layers += [_Residual(width, wanted), *(_Residual(wanted, wanted) for _ in range(2))]
        width = wanted
        if level < len(_WIDTHS) - 1:
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1)]
    return [*layers, *_end(width, 3)]


def _middle(width: int) -> list[nn.Module]:
    return [_Residual(width, width), _Attention(width), _Residual(width, width)]


def _end(width: int, wanted: int) -> list[nn.Module]:
    return [nn.GroupNorm(_GROUPS, width), nn.SiLU(), nn.Conv2d(width, wanted, 3, padding=1)]


class _Residual(nn.Module):
    def __init__(self, width: int, wanted: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_end(width, wanted), *_end(wanted, wanted))
        self.skip = nn.Identity() if width == wanted else nn.Conv2d(width, wanted, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        total: Tensor = self.skip(x) + self.branch(x)
        return total


class _Attention(nn.Module):
    """One head over all places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, width)
        self.to_qkv, self.to_out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        places = rearrange(self.norm(x), "b c h w -> b 1 (h w) c")
        query, key, value = self.to_qkv(places).chunk(3, dim=-1)
        mixed = self.to_out(F.scaled_dot_product_attention(query, key, value))
        total: Tensor = x + rearrange(mixed, "b 1 (h w) c -> b c h w", h=x.shape[2])
        return total
