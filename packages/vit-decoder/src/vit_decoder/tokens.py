"""From latents to one token per patch: what both decoders do first."""

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn

from mim_encoder.config import TrunkConfig
from mim_encoder.trunk import ViTTrunk, learned_tokens


class LatentsToImageTokens(nn.Module):
    """Transformer that fills a grid of identical image tokens from the latents.

    The image tokens start as copies of one learned vector and differ only by their rotary position,
    so the grid can be any. Prefix slots that the latents do not take are learned class tokens.

    Args:
        config: The transformer; its prefix holds class tokens, then latents.
        num_latents: Latent tokens that come in.
        latent_dim: Numbers per latent token.

    Example:
        >>> trunk = TrunkConfig(width=16, depth=1, num_heads=2, num_prefix=4)
        >>> to_tokens = LatentsToImageTokens(trunk, num_latents=3, latent_dim=5)
        >>> to_tokens(torch.zeros(2, 3, 5), grid=(2, 3)).shape
        torch.Size([2, 6, 16])
    """

    def __init__(self, config: TrunkConfig, *, num_latents: int, latent_dim: int) -> None:
        super().__init__()
        self.config = config
        self.num_latents = num_latents
        self.latent_dim = latent_dim
        num_class_tokens = config.num_prefix - num_latents
        self.from_latent = nn.Linear(latent_dim, config.width)
        self.latent_positions = learned_tokens(num_latents, config.width)
        self.image_token = learned_tokens(1, config.width)
        self.class_tokens = (
            learned_tokens(num_class_tokens, config.width, std=1e-6) if num_class_tokens else None
        )
        self.trunk = ViTTrunk(config)

    def forward(
        self,
        z: Float[Tensor, "b k d"],
        grid: tuple[int, int],
        uniform: Float[Tensor, "b depth 2"] | None = None,
    ) -> Float[Tensor, "b n width"]:
        """Return one token per place of the grid, in raster order.

        Args:
            z: Latent tokens.
            grid: Rows and columns.
            uniform: Draws that decide which branches are skipped, as for `ViTTrunk`; None skips
                none.

        Raises:
            ValueError: If number or width of the latents is not the configured one.
        """
        require_latents(z, self.num_latents, self.latent_dim)
        rows, columns = grid
        prefix = self.from_latent(z) + self.latent_positions
        if self.class_tokens is not None:
            class_tokens = repeat(self.class_tokens, "t width -> b t width", b=len(z))
            prefix = torch.cat([class_tokens, prefix], dim=1)
        image = repeat(self.image_token, "1 width -> b n width", b=len(z), n=rows * columns)
        tokens: Tensor
        _, tokens = self.trunk(prefix, image, grid, uniform=uniform)
        return tokens


def require_latents(z: Float[Tensor, "b k d"], num_latents: int, latent_dim: int) -> None:
    """Raise ValueError unless the latents have the configured number and width."""
    if z.shape[1:] != (num_latents, latent_dim):
        raise ValueError(
            f"Expected {num_latents} latents of {latent_dim}; got {z.shape[1]} of {z.shape[2]}. "
            "Set num_latents and latent_dim of the decoder to the encoder's."
        )
