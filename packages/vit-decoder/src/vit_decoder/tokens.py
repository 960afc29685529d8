"""From latents to one token per patch: what both decoders do first."""

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn

from mim_encoder.checks import require_type
from mim_encoder.config import TrunkConfig
from mim_encoder.inputs import ONE_BATCH, require_dtype
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
            TypeError: If the latents are no tensor.
            ValueError: If number, width or dtype of the latents is not that of the weights.
        """
        require_latents(z, self.num_latents, self.latent_dim, self.image_token.dtype)
        rows, columns = grid
        prefix = self.from_latent(z) + self.latent_positions
        if self.class_tokens is not None:
            class_tokens = repeat(self.class_tokens, "t width -> b t width", b=z.shape[0])
            prefix = torch.cat([class_tokens, prefix], dim=1)
        image = repeat(self.image_token, "1 width -> b n width", b=z.shape[0], n=rows * columns)
        tokens: Tensor
        _, tokens = self.trunk(prefix, image, grid, uniform=uniform)
        return tokens


def require_latents(z: Tensor, num_latents: int, latent_dim: int, dtype: torch.dtype) -> None:
    """Check latents.

    Args:
        z: The latents.
        num_latents: Tokens of one image.
        latent_dim: Numbers per token.
        dtype: That of the weights.

    Raises:
        TypeError: If they are no tensor.
        ValueError: If they have another shape or dtype.
    """
    require_type(Tensor, "a torch.Tensor", "Give it posterior.sample() or posterior.mean.", z=z)
    if z.ndim != 3 or z.shape[1:] != (num_latents, latent_dim):
        fit = "Set num_latents and latent_dim of the decoder to the encoder's."
        raise ValueError(
            f"Expected z of shape (b, {num_latents}, {latent_dim}); got {tuple(z.shape)}. "
            f"{fit if z.ndim == 3 else ONE_BATCH}"
        )
    require_dtype("z", z, dtype, f"Convert it with z.to({dtype}).")
