"""What can be chosen about the decoders. Imports no torch, so a command line can check it first."""

from dataclasses import dataclass
from typing import Any, Literal

from mim_encoder.checks import (
    keep_plain,
    require_choice,
    require_count,
    require_grid,
    require_pair,
)
from mim_encoder.config import TrunkConfig, preset_fields

FeatureKind = Literal["transformer", "mlp"]
PixelHead = Literal["linear", "refined"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """Shape of a `PixelDecoder`; the defaults are the paper's ViT-B at 256 px.

    Args:
        image_size: Side of the square output, in pixels, unless a call asks for another size.
        patch_size: Side of a square patch, in pixels.
        width: Numbers per token; a multiple of ``4 * num_heads``.
        depth: Transformer blocks.
        num_heads: Attention heads.
        mlp_ratio: Hidden width of the MLPs, in units of ``width``.
        num_latents: Latent tokens that come in.
        latent_dim: Numbers per latent token.
        layer_scale: Initial factor on every residual branch; None leaves the factors out.
        drop_path: Probability of skipping a branch of the last block in calls that are given
            ``uniform``, in [0, 1); earlier blocks less.
        rope_theta: Ratio of the rotary embedding's highest and lowest frequency.
        head: "linear", each patch from its own token (the released code's), or "refined", a 3x3
            convolution more, which can smooth the seams between patches.

    Raises:
        TypeError: If a field is of another type.
        ValueError: If a field is out of range.

    Example:
        >>> DecoderConfig.preset("B").grid
        (16, 16)
    """

    image_size: int = 256
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    num_latents: int = 128
    latent_dim: int = 64
    layer_scale: float | None = 1e-5
    drop_path: float = 0.05
    rope_theta: float = 10.0
    head: PixelHead = "linear"

    def __post_init__(self) -> None:
        require_grid(self.image_size, self.patch_size)
        require_count(num_latents=self.num_latents, latent_dim=self.latent_dim)
        require_choice(PixelHead, head=self.head)
        _ = self.trunk
        keep_plain(self)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "DecoderConfig":
        """Return a named size, the mirror of the encoder's: tiny (32 px), S, B, L or XL (256 px).

        Args:
            name: The size.
            **overrides: Fields that replace the preset's.

        Raises:
            TypeError: If a field is of another type, or unknown.
            ValueError: If there is no such size, or a field is out of range.

        Example:
            >>> DecoderConfig.preset("tiny").drop_path
            0.0
        """
        drop_path = {"drop_path": 0.0} if name == "tiny" else {}
        return cls(**{**preset_fields(name), **drop_path, **overrides})

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        side = self.image_size // self.patch_size
        return side, side

    @property
    def num_patches(self) -> int:
        """Patches per image, in raster order."""
        rows, columns = self.grid
        return rows * columns

    @property
    def trunk(self) -> TrunkConfig:
        """The transformer over class token, latents and patches."""
        return TrunkConfig(
            width=self.width,
            depth=self.depth,
            num_heads=self.num_heads,
            num_prefix=1 + self.num_latents,
            mlp_ratio=self.mlp_ratio,
            layer_scale=self.layer_scale,
            drop_path=self.drop_path,
            rope_theta=self.rope_theta,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureDecoderConfig:
    """Shape of a `FeatureDecoder`.

    Args:
        grid: Rows and columns of the teacher's feature map.
        feature_dim: Numbers per place of the feature map.
        num_latents: Latent tokens that come in.
        latent_dim: Numbers per latent token.
        kind: "transformer" (released code: a small ViT) or "mlp" (the paper's words: each latent
            alone, its output repeated over its share of the places in raster order).
        width: Numbers per token of the transformer; a multiple of ``4 * num_heads``.
        depth: Blocks of the transformer.
        num_heads: Attention heads of the transformer.
        hidden_width: Hidden units in each of the MLP's two hidden layers.

    Raises:
        TypeError: If a field is of another type.
        ValueError: If a field is out of range.

    Example:
        >>> FeatureDecoderConfig(grid=(8, 8), feature_dim=112, num_latents=16, latent_dim=16).kind
        'transformer'
    """

    grid: tuple[int, int] = (16, 16)
    feature_dim: int = 768
    num_latents: int = 128
    latent_dim: int = 64
    kind: FeatureKind = "transformer"
    width: int = 192
    depth: int = 3
    num_heads: int = 3
    hidden_width: int = 1024

    def __post_init__(self) -> None:
        require_pair("(16, 16)", grid=self.grid)
        rows, columns = self.grid
        require_count(
            rows=rows,
            columns=columns,
            feature_dim=self.feature_dim,
            num_latents=self.num_latents,
            latent_dim=self.latent_dim,
            hidden_width=self.hidden_width,
        )
        require_choice(FeatureKind, kind=self.kind)
        if self.kind == "mlp" and rows * columns % self.num_latents:
            raise ValueError(
                f"Expected num_latents to divide the {rows}x{columns} places, since kind='mlp' "
                f"repeats each latent equally often; got {self.num_latents}. "
                "Choose kind='transformer' or another num_latents."
            )
        _ = self.trunk
        keep_plain(self)

    @property
    def trunk(self) -> TrunkConfig:
        """The transformer over latents and places (kind "transformer")."""
        return TrunkConfig(
            width=self.width,
            depth=self.depth,
            num_heads=self.num_heads,
            num_prefix=self.num_latents,
        )
