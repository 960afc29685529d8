"""The transformer that encoder and decoders share."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from einops import pack, rearrange, unpack
from jaxtyping import Float, Int
from timm.layers import LayerNorm, RotaryEmbeddingMixed, trunc_normal_
from timm.models.eva import EvaBlock
from torch import Tensor, nn

from mim_encoder.checks import require_type
from mim_encoder.config import TrunkConfig


class ViTTrunk(nn.Module):
    """Bidirectional pre-norm transformer over prefix tokens and a grid of image tokens.

    Image tokens are placed by learnable 2-D rotary embeddings ("mixed" RoPE: own frequencies for
    every block and head) in units of patches, so any grid can be given. Prefix tokens are not
    rotated: to an image token they look like position (0, 0), which is how it can tell where it is.
    Rotary angles are float32 whatever the weights are.

    Args:
        config: Width, depth and the like.

    Raises:
        TypeError: If it is no `TrunkConfig`.

    Example:
        >>> trunk = ViTTrunk(TrunkConfig(width=16, depth=1, num_heads=2, num_prefix=3))
        >>> prefix, image = trunk(torch.zeros(1, 3, 16), torch.zeros(1, 8, 16), grid=(2, 4))
        >>> prefix.shape, image.shape
        (torch.Size([1, 3, 16]), torch.Size([1, 8, 16]))
    """

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        advice = "Give it a TrunkConfig, such as EncoderConfig().trunk."
        require_type(TrunkConfig, "a TrunkConfig", advice, config=config)
        self.config = config
        self.rope = RotaryEmbeddingMixed(
            config.width, config.depth, config.num_heads, temperature=config.rope_theta
        )
        self.blocks = nn.ModuleList(
            _Block(
                config.width,
                config.num_heads,
                mlp_ratio=config.mlp_ratio,
                num_prefix_tokens=config.num_prefix,
                init_values=config.layer_scale,
                norm_layer=LayerNorm,
            )
            for _ in range(config.depth)
        )
        self.norm = LayerNorm(config.width)
        self.register_load_state_dict_pre_hook(_zero_key_biases)  # type: ignore[no-untyped-call]
        self.blocks.apply(partial(_init_linear, std=0.02 * (768 / config.width) ** 0.5))

    def forward(
        self,
        prefix: Float[Tensor, "b prefix width"],
        image: Float[Tensor, "b n width"],
        grid: tuple[int, int],
        places: Int[Tensor, "b n"] | None = None,
        uniform: Float[Tensor, "b depth 2"] | None = None,
    ) -> tuple[Float[Tensor, "b prefix width"], Float[Tensor, "b n width"]]:
        """Mix all tokens with all others.

        Args:
            prefix: Tokens without a place in the image.
            image: One token per patch, in raster order.
            grid: Rows and columns of patches.
            places: Which patch of the grid each image token is, counted in raster order; None for
                all of them.
            uniform: Uniform draws in [0, 1), one for each image, block and branch (attention, MLP):
                the branch is skipped where the draw is below the block's share of ``drop_path``
                (stochastic depth); None skips none.

        Returns:
            Both kinds of token after the final LayerNorm.

        Raises:
            ValueError: If there is not one draw for each image, block and branch.
        """
        draws = (image.shape[0], self.config.depth, 2)
        if uniform is not None and uniform.shape != draws:
            raise ValueError(
                f"Expected uniform of shape {draws} (images, blocks, branches); "
                f"got {tuple(uniform.shape)}. Draw it with torch.rand{draws}."
            )
        if not image.shape[0]:  # attention cannot reshape nothing
            return prefix, image
        tokens, sizes = pack([prefix, image], "b * width")
        ropes = self.rope.get_embed(list(grid))
        for block, rope, factors in zip(self.blocks, ropes, self._factors(uniform), strict=True):
            if places is not None:
                rope = rearrange(rope[:, places], "heads b n angles -> b heads n angles")
            tokens = block(tokens, rope, factors)
        prefix, image = unpack(self.norm(tokens), sizes, "b * width")
        return prefix, image

    def _factors(
        self, uniform: Float[Tensor, "b depth 2"] | None
    ) -> Sequence[Float[Tensor, "b 2"] | None]:
        """Return what each block multiplies its branches with: 0, or 1 over the share kept."""
        if uniform is None or not self.config.drop_path:
            return [None] * self.config.depth
        last, depth = self.config.drop_path, self.config.depth
        first = 0 if depth > 1 else last  # a single block is the last one
        rate = torch.linspace(first, last, depth, dtype=uniform.dtype, device=uniform.device)
        rate = rearrange(rate, "depth -> depth 1")
        return ((uniform >= rate) / (1 - rate)).unbind(1)


def _zero_key_biases(
    trunk: nn.Module, state_dict: Mapping[str, Any], prefix: str, metadata: dict[str, Any], *_: Any
) -> None:
    """Give the biases of keys their value, which is 0 and in no state dict, after ``to_empty``."""
    for number, block in enumerate(cast(ViTTrunk, trunk).blocks):
        attention: Any = cast(EvaBlock, block).attn
        loaded = state_dict.get(f"{prefix}blocks.{number}.attn.q_bias")
        if metadata.get("assign_to_params_buffers") and loaded is not None:
            attention.k_bias = torch.zeros_like(loaded)  # where the assigned weights are
        else:
            attention.k_bias.zero_()


class _Block(EvaBlock):
    """Attention and MLP on a residual stream, either skipped image by image."""

    def forward(  # type: ignore[override]  # the factors are what it adds
        self,
        x: Float[Tensor, "b t width"],
        rope: Tensor,
        factors: Float[Tensor, "b 2"] | None = None,
    ) -> Float[Tensor, "b t width"]:
        if factors is None:
            whole: Tensor = super().forward(x, rope=rope)
            return whole
        attention, mlp = rearrange(factors.to(x.dtype), "b branches -> branches b 1 1")
        x = x + attention * self._scaled(self.attn(self.norm1(x), rope=rope), self.gamma_1)
        mixed: Tensor = x + mlp * self._scaled(self.mlp(self.norm2(x)), self.gamma_2)
        return mixed

    @staticmethod
    def _scaled(branch: Tensor, gamma: Tensor | None) -> Tensor:
        return branch if gamma is None else gamma * branch


def _init_linear(module: nn.Module, std: float) -> None:
    """Draw weights as wide as ViT-B's are at its width: narrow trunks learn faster for it."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def learned_tokens(count: int, width: int, *, std: float = 0.02) -> nn.Parameter:
    """Return ``count`` learnable tokens, truncated normal with deviation ``std``."""
    return nn.Parameter(cast(Tensor, trunc_normal_(torch.empty(count, width), std=std)))
