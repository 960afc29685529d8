"""The DINO discriminator: small heads that judge the tokens of a frozen ViT (RAE, StyleGAN-T)."""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from mimflow_train.frozen.dino import DinoTokens

__all__ = ["DinoDiscriminator"]

_SLOPE = 0.2
_KERNEL = 9


class DinoDiscriminator(nn.Module):
    """Says of every token of a frozen DINO ViT whether its image looks real.

    There is a head for each depth that is looked at (arXiv 2301.09515, section 3.2; shape as in
    bytetriper/RAE). Within a head, channels are normalised over the tokens of one image, so that an
    image's logits do not depend on the batch. The ViT is part of no state dict.

    Args:
        tokens: The frozen network.
    """

    def __init__(self, tokens: DinoTokens) -> None:
        super().__init__()
        self.tokens = tokens
        self.heads = nn.ModuleList(_head(tokens.width) for _ in range(tokens.num_depths))

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        """Return a logit for each token at each depth, above 0 for real.

        Args:
            image: Images in [-1, 1].
        """
        judged = zip(self.heads, self.tokens(image), strict=True)
        return torch.cat(
            [rearrange(head(rearrange(t, "b n d -> b d n")), "b 1 n -> b n") for head, t in judged],
            dim=1,
        )


class _Residual(nn.Module):
    """``(f(x) + x) / sqrt 2``."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = (self.layers(x) + x) / math.sqrt(2)
        return result


def _head(width: int) -> nn.Sequential:
    last = spectral_norm(nn.Conv1d(width, 1, kernel_size=1))
    return nn.Sequential(_layer(width, kernel=1), _Residual(_layer(width, kernel=_KERNEL)), last)


def _layer(width: int, *, kernel: int) -> nn.Sequential:
    convolution = nn.Conv1d(
        width, width, kernel_size=kernel, padding=kernel // 2, padding_mode="circular"
    )
    return nn.Sequential(
        spectral_norm(convolution), nn.InstanceNorm1d(width, affine=True), nn.LeakyReLU(_SLOPE)
    )
