"""What can be chosen about the encoder. Imports no torch, so a command line can check it first."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from mim_encoder.checks import (
    keep_plain,
    require_choice,
    require_count,
    require_grid,
    require_not_negative,
    require_number,
    require_positive,
    require_type,
)

Bottleneck = Literal["learnable-tokens", "mae", "simmim"]
HiddenPatches = Literal["mask-token", "dropped"]
MaskLaw = Literal["truncnorm", "uniform"]

_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {
        "image_size": 32,
        "patch_size": 4,
        "width": 192,
        "depth": 4,
        "num_heads": 3,
        "num_latents": 16,
        "latent_dim": 16,
        "layer_scale": None,
    },
    "S": {"width": 384, "depth": 12, "num_heads": 6},
    "B": {"width": 768, "depth": 12, "num_heads": 12},
    "L": {"width": 1024, "depth": 24, "num_heads": 16},
    "XL": {"width": 1152, "depth": 28, "num_heads": 16},
}


def preset_fields(name: str) -> dict[str, Any]:
    """Return the fields in which a named size differs from the defaults.

    Args:
        name: One of tiny, S, B, L, XL; shared by encoder and decoder.

    Raises:
        TypeError: If it is no name.
        ValueError: If there is no such size.

    Example:
        >>> preset_fields("S")
        {'width': 384, 'depth': 12, 'num_heads': 6}
    """
    require_type(str, "a name", f"Choose among {', '.join(_PRESETS)}.", preset=name)
    if name not in _PRESETS:
        lowered = {preset.lower(): preset for preset in _PRESETS}
        near = get_close_matches(name.lower(), lowered, n=1)
        advice = f"Did you mean {lowered[near[0]]!r}?" if near else "Choose one of them."
        raise ValueError(f"Expected a preset among {', '.join(_PRESETS)}; got {name!r}. {advice}")
    return dict(_PRESETS[name])


@dataclass(frozen=True, kw_only=True, slots=True)
class TrunkConfig:
    """Shape of a ViT trunk over ``[prefix | image]`` tokens.

    Args:
        width: Numbers per token; a multiple of ``4 * num_heads``.
        depth: Transformer blocks.
        num_heads: Attention heads.
        num_prefix: Tokens without a place in the image (class token, latents), at least 0.
        mlp_ratio: Hidden width of the MLPs, in units of ``width``.
        layer_scale: Initial factor on every residual branch; None leaves the factors out.
        drop_path: Probability of skipping a branch of the last block where draws are given, in
            [0, 1); earlier blocks less, linearly down to 0 at the first of several.
        rope_theta: Ratio of the rotary embedding's highest and lowest frequency.

    Raises:
        TypeError: If a field is of another type.
        ValueError: If a field is out of range.
    """

    width: int
    depth: int
    num_heads: int
    num_prefix: int
    mlp_ratio: float = 4.0
    layer_scale: float | None = None
    drop_path: float = 0.0
    rope_theta: float = 10.0

    def __post_init__(self) -> None:
        require_count(width=self.width, depth=self.depth, num_heads=self.num_heads)
        require_positive(mlp_ratio=self.mlp_ratio, rope_theta=self.rope_theta)
        if self.width % (4 * self.num_heads):
            step = 4 * self.num_heads
            fitting = -(-self.width // step) * step
            raise ValueError(
                f"Expected width divisible by 4 * num_heads = {step} (2-D rotary positions turn "
                f"channels in fours); got {self.width}. Choose width={fitting}."
            )
        require_not_negative(num_prefix=self.num_prefix)
        if self.layer_scale is not None:
            require_positive(layer_scale=self.layer_scale)
        require_number(drop_path=self.drop_path)
        if not 0 <= self.drop_path < 1:
            raise ValueError(
                f"Expected drop_path in [0, 1); got {self.drop_path}. Choose 0 or 0.05."
            )
        keep_plain(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Shape of a `MaskedEncoder`; the defaults are the paper's ViT-B at 256 px.

    Args:
        image_size: Side of the square input, in pixels; a multiple of ``patch_size``.
        patch_size: Side of a square patch, in pixels.
        width: Numbers per token; a multiple of ``4 * num_heads``.
        depth: Transformer blocks.
        num_heads: Attention heads.
        mlp_ratio: Hidden width of the MLPs, in units of ``width``.
        num_latents: Latent tokens that come out, whatever the mask. With "simmim" it must be the
            number of patches, with "mae" the number of visible patches of every mask.
        latent_dim: Numbers per latent token.
        sigma: Standard deviation of the latent noise of Eq. 1, at least 0 and finite.
        layer_scale: Initial factor on every residual branch; None leaves the factors out. At 1e-5
            the latents of a fresh encoder hardly depend on the image; short runs want None.
        rope_theta: Ratio of the rotary embedding's highest and lowest frequency.
        bottleneck: What becomes the latents: "learnable-tokens" of the encoder's own (the paper's),
            or one of those it argues against in section 3.1, "simmim", every patch, and "mae", the
            visible patches in raster order.
        hidden_patches: Whether the transformer sees a hidden patch as a "mask-token" (the released
            code's way) or not at all: "dropped" saves 35 % of ViT-B's work at half hidden, but
            needs as many hidden patches in every image of a batch. "simmim" goes with the first
            only, "mae" with the second only.

    Raises:
        TypeError: If a field is of another type.
        ValueError: If a field is out of range.

    Example:
        >>> EncoderConfig.preset("B").num_patches
        256
        >>> half = EncoderConfig(bottleneck="mae", hidden_patches="dropped", num_latents=128)
        >>> half.trunk.num_prefix  # the class token
        1
    """

    image_size: int = 256
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    num_latents: int = 128
    latent_dim: int = 64
    sigma: float = 0.3
    layer_scale: float | None = 1e-5
    rope_theta: float = 10.0
    bottleneck: Bottleneck = "learnable-tokens"
    hidden_patches: HiddenPatches = "mask-token"

    def __post_init__(self) -> None:
        require_grid(self.image_size, self.patch_size)
        require_count(num_latents=self.num_latents, latent_dim=self.latent_dim)
        require_number(sigma=self.sigma)
        if not 0 <= self.sigma < math.inf:
            raise ValueError(
                f"Expected sigma >= 0 and finite; got {self.sigma}. The paper uses 0.3."
            )
        require_choice(Bottleneck, bottleneck=self.bottleneck)
        require_choice(HiddenPatches, hidden_patches=self.hidden_patches)
        self._require_possible_bottleneck()
        _ = self.trunk
        keep_plain(self)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "EncoderConfig":
        """Return a named size: tiny (32 px, seconds on a CPU), S, B, L or XL (256 px).

        Args:
            name: The size.
            **overrides: Fields that replace the preset's.

        Raises:
            TypeError: If a field is of another type, or unknown.
            ValueError: If there is no such size, or a field is out of range.

        Example:
            >>> EncoderConfig.preset("tiny", num_latents=8).grid
            (8, 8)
        """
        return cls(**{**preset_fields(name), **overrides})

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
        """The transformer over class token, latents (of "learnable-tokens") and patches."""
        return TrunkConfig(
            width=self.width,
            depth=self.depth,
            num_heads=self.num_heads,
            num_prefix=1 + self.num_latents * (self.bottleneck == "learnable-tokens"),
            mlp_ratio=self.mlp_ratio,
            layer_scale=self.layer_scale,
            rope_theta=self.rope_theta,
        )

    def _require_possible_bottleneck(self) -> None:
        if self.bottleneck == "learnable-tokens":
            return
        fitting = "mask-token" if self.bottleneck == "simmim" else "dropped"
        if self.hidden_patches != fitting:
            raise ValueError(
                f"Expected hidden_patches {fitting!r} with bottleneck {self.bottleneck!r}; "
                f"got {self.hidden_patches!r}. Choose hidden_patches={fitting!r}."
            )
        if self.bottleneck == "simmim" and self.num_latents != self.num_patches:
            raise ValueError(
                "Expected num_latents equal to the number of patches, since bottleneck 'simmim' "
                f"makes one latent of each; got {self.num_latents}. "
                f"Choose num_latents={self.num_patches}."
            )
        if self.num_latents > self.num_patches:
            raise ValueError(
                f"Expected num_latents at most {self.num_patches}, the number of patches, with "
                f"bottleneck 'mae'; got {self.num_latents}. Choose the number of visible patches."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskRatio:
    """Law of the share of patches that `random_mask` hides.

    Args:
        low: Smallest share, in [0, 1].
        high: Largest share, in [low, 1]; equal to ``low`` for a fixed share.
        law: "truncnorm", a normal law of mean ``high`` and deviation 0.25 cut to [low, high]
            (MAETok's: nearly flat, leaning to ``high``), or "uniform".
        per_sample: Whether every image has a share of its own, rather than every batch.

    Raises:
        TypeError: If a field is of another type.
        ValueError: If a field is out of range.

    Example:
        >>> MaskRatio(low=0.5, high=0.5)
        MaskRatio(low=0.5, high=0.5, law='truncnorm', per_sample=False)
    """

    low: float = 0.4
    high: float = 0.6
    law: MaskLaw = "truncnorm"
    per_sample: bool = False

    def __post_init__(self) -> None:
        require_number(low=self.low, high=self.high)
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(
                f"Expected 0 <= low <= high <= 1; got low={self.low}, high={self.high}. "
                "The paper uses low=0.4, high=0.6."
            )
        require_choice(MaskLaw, law=self.law)
        keep_plain(self)
