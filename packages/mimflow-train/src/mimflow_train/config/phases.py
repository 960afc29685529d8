"""What either phase minimises and how, and the second one's adversary; imports no torch."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mimflow_train.config.choices import require_choices
from mimflow_train.errors import ConfigError

__all__ = ["DecoderPhaseConfig", "DiscriminatorConfig", "LossConfig", "OptimConfig"]

_PAPER_OPTIM = {
    "lr": 1e-4,
    "betas": (0.9, 0.95),
    "weight_decay": 1e-4,
    "clip_norm": 1.0,
    "warmup_steps": 0,
    "ema_decay": 0.9999,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Weights of the joint objective (Eq. 5-7); a weight of 0 leaves the term out.

    Attributes:
        nll: Weight of the flow's NLL, a mean over latent dimensions in nats.
        pixel: Weight of the mean squared error on [0, 1] pixels, over the whole image.
        hidden_pixels: Weight of a hidden pixel's error where a visible one's is 1 (Table 9).
        perceptual: Weight of the perceptual distance.
        perceptual_network: What it is measured with: ``efflite0``, whose weights come as a package,
            or ``lpips``, the release's, LPIPS-VGG and a tenth of ConvNeXt-S's logits, over 1.1;
            the paper has LPIPS alone.
        feature: Weight of ``1 - cos`` to each teacher's features, over hidden patches.
    """

    nll: float = 1.0
    pixel: float = 1.0
    hidden_pixels: float = 1.0
    perceptual: float = 1.1
    feature: float = 1.0
    perceptual_network: Literal["efflite0", "lpips"] = "efflite0"

    def __post_init__(self) -> None:
        for name in ("nll", "pixel", "hidden_pixels", "perceptual", "feature"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"Expected loss.{name} >= 0; got {value}. Use 0 to drop it.")
        require_choices(self, "loss.")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW, its schedule, and the moving average of the weights.

    Attributes:
        lr: Peak learning rate.
        betas: Decay rates of AdamW's first and second moment.
        weight_decay: Decoupled weight decay, on matrices only.
        clip_norm: Largest norm of the whole gradient.
        warmup_steps: Steps of linear warm-up from 0.
        schedule: What follows the warm-up.
        ema_decay: Decay of the averaged weights; early steps use ``(1 + t) / (10 + t)``.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    ema_decay: float = 0.9999

    def __post_init__(self) -> None:
        wanted = {
            "lr > 0": 0 < self.lr < math.inf,
            "betas two numbers in [0, 1)": len(self.betas) == 2
            and all(0 <= beta < 1 for beta in self.betas),
            "weight_decay >= 0": 0 <= self.weight_decay < math.inf,
            "clip_norm > 0": self.clip_norm > 0,
            "warmup_steps >= 0": self.warmup_steps >= 0,
            "ema_decay in [0, 1)": 0 <= self.ema_decay < 1,
        }
        for text, fulfilled in wanted.items():
            if not fulfilled:
                name = text.split()[0]
                raise ConfigError(
                    f"Expected optim.{text}; got {getattr(self, name)}. "
                    f"The paper's recipe here has {_PAPER_OPTIM[name]}."
                )
        require_choices(self, "optim.")


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscriminatorConfig:
    """The decoder's adversary; the defaults see 70 x 70 pixels at once.

    Attributes:
        kind: ``patch``, PatchGAN's convolutions, or ``dino``, heads on the tokens of a frozen
            DINO ViT-S/8, whose weights must be had. Width and depth are the first one's.
        width: Channels of the first convolution, a multiple of 16.
        depth: Convolutions of stride 2; 2 sees 34 x 34 pixels, 1 sees 16 x 16.
    """

    kind: Literal["patch", "dino"] = "patch"
    width: int = 64
    depth: int = 3

    def __post_init__(self) -> None:
        require_choices(self, "decoder_phase.discriminator.")
        if self.width < 1 or self.width % 16:
            raise ConfigError(
                f"Expected discriminator.width in multiples of 16; got {self.width}. Use 64."
            )
        if self.depth < 1:
            raise ConfigError(f"Expected discriminator.depth >= 1; got {self.depth}. Use 3.")

    @property
    def least_size(self) -> int:
        """Pixels per side below which there is no patch left to judge."""
        return 3 * 2**self.depth if self.kind == "patch" else 1


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderPhaseConfig:
    """The second phase (Eq. 8): the decoder alone, against a discriminator.

    Attributes:
        steps: Optimiser steps, after those of the joint phase; 0 leaves the phase out.
        gan_weight: Weight of the adversarial term; those of pixels and perception stay.
        adaptive: Multiply ``gan_weight`` by the ratio of the gradients that the other terms and the
            adversarial one have at the decoder's last layer, at most 10^4 (VQGAN's lambda).
        augment: Shift images and change their colours at random before they are judged (DiffAug).
        fresh_fakes: Let the discriminator learn from a second decoding by the updated decoder,
            rounded to 8 bit, rather than from the decoder's own forward pass.
        lecam_weight: Weight of the LeCam regulariser of the discriminator.
        discriminator: The adversary.
        optim: Of decoder and discriminator alike, each with a clipped gradient of its own; the
            average warms up anew.
    """

    steps: int = 10_010
    gan_weight: float = 0.05
    adaptive: bool = False
    augment: bool = False
    fresh_fakes: bool = False
    lecam_weight: float = 0.0
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(ema_decay=0.999))

    def __post_init__(self) -> None:
        for name in ("steps", "gan_weight", "lecam_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"Expected a finite decoder_phase.{name} >= 0; got {getattr(self, name)}. "
                    "Use 0 to leave it out."
                )

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "DecoderPhaseConfig":
        """Return the adversary of MIMFlow's released code, ``released``, or of RAE, ``rae``.

        The paper's text describes the second, its released configuration is the first. Optimiser,
        average, reconstruction losses and schedule are this recipe's in both, not RAE's.

        Args:
            name: The recipe.
            **overrides: Fields that replace the recipe's.

        Raises:
            ConfigError: If there is no such recipe, or a field is out of range.

        Example:
            >>> DecoderPhaseConfig.preset("rae", steps=100).discriminator.kind
            'dino'
        """
        released = cls()
        presets = {
            "released": released,
            "rae": replace(
                released,
                discriminator=DiscriminatorConfig(kind="dino"),
                adaptive=True,
                augment=True,
                fresh_fakes=True,
            ),
        }
        if name not in presets:
            raise ConfigError(
                f"Expected a decoder phase of {' or '.join(presets)}; got {name}. "
                "Choose one of them."
            )
        return replace(presets[name], **overrides)
