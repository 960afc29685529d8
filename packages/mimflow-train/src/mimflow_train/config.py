"""The complete configuration of a run, as nested frozen dataclasses; imports no torch."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from mim_encoder import EncoderConfig, MaskRatio
from mimflow_train.errors import ConfigError
from tarflow_prior import TarFlowConfig
from vit_decoder import DecoderConfig, FeatureDecoderConfig

TEACHERS = {"efflite0": 112, "hog": 108, "dinov2": 768, "clip": 768}  # numbers per patch

__all__ = [
    "TEACHERS",
    "DataConfig",
    "DecoderPhaseConfig",
    "DiscriminatorConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "TrainConfig",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The four networks of Fig. 2; sizes that must agree are checked here.

    Attributes:
        encoder: Masked encoder.
        flow: Prior over the latent tokens.
        decoder: Pixel decoder.
        features: Feature decoders (Eq. 7) by the name of the teacher they imitate.
    """

    encoder: EncoderConfig
    flow: TarFlowConfig
    decoder: DecoderConfig
    features: dict[str, FeatureDecoderConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        encoder, latents = self.encoder, (self.encoder.num_latents, self.encoder.latent_dim)
        require_equal(
            "flow.num_tokens and token_dim",
            (self.flow.num_tokens, self.flow.token_dim),
            "the encoder's latents",
            latents,
        )
        require_equal(
            "decoder.num_latents and latent_dim",
            (self.decoder.num_latents, self.decoder.latent_dim),
            "the encoder's latents",
            latents,
        )
        require_equal(
            "decoder.image_size", self.decoder.image_size, "encoder.image_size", encoder.image_size
        )
        for name, each in self.features.items():
            if name not in TEACHERS:
                raise ConfigError(
                    f"Expected feature decoders for the teachers {', '.join(TEACHERS)}; "
                    f"got {name}. Rename or remove it."
                )
            require_equal(
                f"features.{name}.num_latents and latent_dim",
                (each.num_latents, each.latent_dim),
                "the encoder's latents",
                latents,
            )
            require_equal(
                f"features.{name}.grid", tuple(each.grid), "the encoder's patch grid", encoder.grid
            )
            require_equal(
                f"features.{name}.feature_dim",
                each.feature_dim,
                "the teacher's width",
                TEACHERS[name],
            )


def require_equal(name: str, value: object, other_name: str, other: object) -> None:
    """Raise if two fields that must agree do not."""
    if value != other:
        raise ConfigError(
            f"Expected model.{name} to equal {other_name}, {other}; got {value}. Set both."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Weights of the joint objective (Eq. 5-7); a weight of 0 leaves the term out.

    Attributes:
        nll: Weight of the flow's NLL, a mean over latent dimensions in nats.
        pixel: Weight of the mean squared error on [0, 1] pixels, over the whole image.
        perceptual: Weight of the perceptual distance.
        perceptual_network: What it is measured with: ``efflite0``, whose weights come as a package,
            or ``lpips``, the paper's, LPIPS-VGG and a tenth of ConvNeXt-S's logits, over 1.1.
        feature: Weight of ``1 - cos`` to each teacher's features, over hidden patches.
    """

    nll: float = 1.0
    pixel: float = 1.0
    perceptual: float = 1.1
    feature: float = 1.0
    perceptual_network: Literal["efflite0", "lpips"] = "efflite0"

    def __post_init__(self) -> None:
        for name in ("nll", "pixel", "perceptual", "feature"):
            value = getattr(self, name)
            if value < 0:
                raise ConfigError(f"Expected loss.{name} >= 0; got {value}. Use 0 to drop it.")
        if self.perceptual_network not in ("efflite0", "lpips"):
            raise ConfigError(
                "Expected loss.perceptual_network efflite0 or lpips; "
                f"got {self.perceptual_network}. Choose one of the two."
            )


_PAPER_OPTIM = {
    "lr": 1e-4,
    "betas": (0.9, 0.95),
    "weight_decay": 1e-4,
    "clip_norm": 1.0,
    "warmup_steps": 0,
    "ema_decay": 0.9999,
}


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
            "lr > 0": self.lr > 0,
            "betas two numbers in [0, 1)": len(self.betas) == 2
            and all(0 <= beta < 1 for beta in self.betas),
            "weight_decay >= 0": self.weight_decay >= 0,
            "clip_norm > 0": self.clip_norm > 0,
            "warmup_steps >= 0": self.warmup_steps >= 0,
            "ema_decay in [0, 1)": 0 <= self.ema_decay < 1,
        }
        for text, fulfilled in wanted.items():
            if not fulfilled:
                name = text.split()[0]
                raise ConfigError(
                    f"Expected optim.{text}; got {getattr(self, name)}. "
                    f"The paper uses {_PAPER_OPTIM[name]}."
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscriminatorConfig:
    """Shape of the patch discriminator; the defaults see 70 x 70 pixels at once.

    Attributes:
        width: Channels of the first convolution, a multiple of 16.
        depth: Convolutions of stride 2; 2 sees 34 x 34 pixels, 1 sees 16 x 16.
    """

    width: int = 64
    depth: int = 3

    def __post_init__(self) -> None:
        if self.width < 1 or self.width % 16:
            raise ConfigError(
                f"Expected discriminator.width in multiples of 16; got {self.width}. Use 64."
            )
        if self.depth < 1:
            raise ConfigError(f"Expected discriminator.depth >= 1; got {self.depth}. Use 3.")


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderPhaseConfig:
    """The second phase (Eq. 8): the decoder alone, against a discriminator.

    Attributes:
        steps: Optimiser steps, after those of the joint phase; 0 leaves the phase out.
        gan_weight: Weight of the adversarial term; those of pixels and perception stay.
        discriminator: Shape of the discriminator.
        optim: Of decoder and discriminator alike, each with a clipped gradient of its own. With few
            steps a slow average keeps the first phase's decoder: ``ema_decay ** steps`` of it.
    """

    steps: int = 10_010
    gan_weight: float = 0.05
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(ema_decay=0.999))

    def __post_init__(self) -> None:
        for name in ("steps", "gan_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"Expected decoder_phase.{name} >= 0; got {getattr(self, name)}. "
                    "Use steps=0 to leave the phase out."
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which images, and in which order.

    Attributes:
        source: ``emoji``, or a folder of class sub-folders of images.
        class_names: Name of each class number.
        even_classes: Draw the classes evenly instead of the images.
        flip: Mirror half of the images from left to right.
    """

    source: str = "emoji"
    class_names: tuple[str, ...] = ()
    even_classes: bool = False
    flip: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One run, complete: what is learned, from what, for how long.

    Attributes:
        scale: Name of the recipe this comes from.
        model: The networks.
        loss: Weights of the objective.
        optim: Optimiser and averaging.
        data: Images.
        mask: Law of the share of hidden patches.
        label_drop_prob: Share of labels replaced by the null class.
        guidance: Guidance scale of the samples that the run draws, 0 for none.
        global_batch: Images per optimiser step, over all workers.
        micro_batch: Images per forward pass of one worker; 0 means its whole share.
        steps: Optimiser steps.
        seed: Seed of everything random.
        precision: Type of the matrix products; ``auto`` is bf16 where the device is fast at it.
        decoder_phase: What follows the joint phase.
    """

    scale: str
    model: ModelConfig
    loss: LossConfig
    optim: OptimConfig
    data: DataConfig
    mask: MaskRatio
    label_drop_prob: float = 0.1
    guidance: float = 0.0
    global_batch: int = 256
    micro_batch: int = 0
    steps: int = 450_450
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    decoder_phase: DecoderPhaseConfig = field(default_factory=DecoderPhaseConfig)

    def __post_init__(self) -> None:
        for name, low in (("global_batch", 1), ("steps", 1), ("micro_batch", 0), ("guidance", 0)):
            value = getattr(self, name)
            if value < low:
                raise ConfigError(f"Expected {name} >= {low}; got {value}. Raise it.")
        if not 0 <= self.label_drop_prob < 1:
            raise ConfigError(
                f"Expected label_drop_prob in [0, 1); got {self.label_drop_prob}. "
                "The paper uses 0.1."
            )
        size, depth = self.model.decoder.image_size, self.decoder_phase.discriminator.depth
        if self.decoder_phase.steps and size < 3 * 2**depth:
            raise ConfigError(
                f"Expected decoder_phase.discriminator.depth for images of {size} px, at least "
                f"3 * 2^depth; got {depth}. Lower it."
            )
        classes = len(self.data.class_names)
        require_equal(
            "flow.num_classes", self.model.flow.num_classes, "the data's classes", classes
        )

    @property
    def all_steps(self) -> int:
        """Optimiser steps of both phases."""
        return self.steps + self.decoder_phase.steps

    @property
    def trained_model(self) -> ModelConfig:
        """The networks without those that no loss term would train."""
        if self.loss.feature > 0:
            return self.model
        return dataclasses.replace(self.model, features={})
