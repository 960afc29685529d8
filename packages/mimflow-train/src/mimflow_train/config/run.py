"""What a run is made of: its networks, its images, its steps; imports no torch."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mim_encoder import EncoderConfig, MaskRatio
from mimflow_train.config.choices import require_choices
from mimflow_train.config.convolutional import ConvolutionalConfig
from mimflow_train.config.phases import DecoderPhaseConfig, LossConfig, OptimConfig
from mimflow_train.errors import ConfigError
from tarflow_prior import Guidance, TarFlowConfig
from vit_decoder import DecoderConfig, FeatureDecoderConfig

TEACHERS = {"efflite0": 112, "hog": 108, "dinov2": 768, "clip": 768}  # numbers per patch

# What only says where and how fast a run is computed; it changes rounding at most.
OPERATIONAL = ("micro_batch", "compile", "cuda_graph", "recompute", "shard", "data.loaders")

__all__ = ["OPERATIONAL", "TEACHERS", "DataConfig", "ModelConfig", "TrainConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The four networks of Fig. 2; sizes that must agree are checked here.

    Attributes:
        encoder: Masked encoder.
        flow: Prior over the latent tokens.
        decoder: Pixel decoder.
        features: Feature decoders (Eq. 7) by the name of the teacher they imitate.
        convolutional: Encoder and decoder in the place of the ViTs, of whose sizes only the image's
            and the latents' then count; None for the ViTs.
    """

    encoder: EncoderConfig
    flow: TarFlowConfig
    decoder: DecoderConfig
    features: dict[str, FeatureDecoderConfig] = field(default_factory=dict)
    convolutional: ConvolutionalConfig | None = None

    def __post_init__(self) -> None:
        encoder, latents = self.encoder, (self.encoder.num_latents, self.encoder.latent_dim)
        _require_equal(
            "flow.num_tokens and token_dim",
            (self.flow.num_tokens, self.flow.token_dim),
            "the encoder's latents",
            latents,
        )
        _require_equal(
            "decoder.num_latents and latent_dim",
            (self.decoder.num_latents, self.decoder.latent_dim),
            "the encoder's latents",
            latents,
        )
        _require_equal(
            "decoder.image_size", self.decoder.image_size, "encoder.image_size", encoder.image_size
        )
        if self.convolutional is not None:
            _require_equal(
                "encoder.num_latents and latent_dim",
                latents,
                "the convolutional latents",
                _latents(self.convolutional, encoder.image_size),
            )
        for name, each in self.features.items():
            if name not in TEACHERS:
                raise ConfigError(
                    f"Expected feature decoders for the teachers {', '.join(TEACHERS)}; "
                    f"got {name}. Rename or remove it."
                )
            _require_equal(
                f"features.{name}.num_latents and latent_dim",
                (each.num_latents, each.latent_dim),
                "the encoder's latents",
                latents,
            )
            _require_equal(
                f"features.{name}.grid", tuple(each.grid), "the encoder's patch grid", encoder.grid
            )
            _require_equal(
                f"features.{name}.feature_dim",
                each.feature_dim,
                "the teacher's width",
                TEACHERS[name],
            )

    def imitating(self, teachers: Sequence[str]) -> "ModelConfig":
        """Return these networks with feature decoders for other teachers, shaped as the first here.

        Args:
            teachers: Names of teachers; none for networks that imitate nobody.

        Raises:
            ConfigError: If there is no such teacher, or no feature decoder here.
        """
        unknown = [name for name in teachers if name not in TEACHERS]
        if unknown:
            raise ConfigError(
                f"Expected teachers among {', '.join(TEACHERS)}; got {', '.join(unknown)}. "
                "Choose from these, or none."
            )
        if teachers and not self.features:
            raise ConfigError("Expected a recipe with a feature decoder to vary; it has none.")
        features = {
            name: dataclasses.replace(
                next(iter(self.features.values())), feature_dim=TEACHERS[name]
            )
            for name in teachers
        }
        return dataclasses.replace(self, features=features)

    def with_convolutions(self, convolutional: ConvolutionalConfig) -> "ModelConfig":
        """Return these networks with a convolutional encoder and decoder, and its latents.

        Args:
            convolutional: Their shape.
        """
        count, dim = _latents(convolutional, self.encoder.image_size)

        def reading(part: Any) -> Any:
            return dataclasses.replace(part, num_latents=count, latent_dim=dim)

        return ModelConfig(
            encoder=reading(self.encoder),
            flow=dataclasses.replace(self.flow, num_tokens=count, token_dim=dim),
            decoder=reading(self.decoder),
            features={name: reading(each) for name, each in self.features.items()},
            convolutional=convolutional,
        )

    @property
    def is_autoencoder_fixed(self) -> bool:
        """Whether the flow alone learns in the joint phase."""
        return self.convolutional is not None and self.convolutional.fixed


def _latents(convolutional: ConvolutionalConfig, image_size: int) -> tuple[int, int]:
    return convolutional.num_latents(image_size), convolutional.latent_dim


def _require_equal(name: str, value: object, other_name: str, other: object) -> None:
    """Raise if two fields that must agree do not."""
    if value != other:
        raise ConfigError(
            f"Expected model.{name} to equal {other_name}, {other}; got {value}. Set "
            "model.image_size, patch_size, num_latents or latent_dim, which all networks take."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which images, and in which order.

    Attributes:
        source: ``emoji``, a folder of class sub-folders of images, or such a folder in tars.
        class_names: Name of each class number.
        even_classes: Draw the classes evenly instead of the images.
        flip: Mirror half of the images from left to right.
        loaders: Processes that decode images for each worker; 0 means the training process itself.
            Changes no image and no order; a set that is held in memory needs none.
        fingerprint: Of the names, sizes and classes of the files; empty for what a package carries.
            A run goes on only with the files that it began with.
    """

    source: str = "emoji"
    class_names: tuple[str, ...] = ()
    even_classes: bool = False
    flip: bool = True
    loaders: int = 0
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if self.loaders < 0:
            raise ConfigError(
                f"Expected data.loaders >= 0; got {self.loaders}. Use 0 to decode in the training "
                "process."
            )


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
        micro_batch: Images per forward pass of one worker; 0 means as many as its GPU holds, and on
            a CPU its whole share. Changes the rounding of sums only.
        compile: Compile the transformer layers (``torch.compile``): a wait at the start, fewer
            passes over memory later. Changes rounding only.
        cuda_graph: Replay the joint phase's pass as one CUDA graph, which saves the launches of its
            kernels; its memory is then not free for anything else, and several GPUs average their
            gradients after the pass instead of amid it.
        recompute: Keep only the input of each transformer layer and compute it again for the
            backward pass: a third more work, several times as many images in memory.
        shard: Share weights, gradients, moments and average out over the workers in the joint phase
            (FSDP2), for a model that no device holds. Changes the rounding of sums only.
        steps: Optimiser steps.
        seed: Seed of everything random.
        weights: What samples and scores are made with and the decoder phase starts from: the
            moving average ``ema``, or the ``raw`` weights. Checkpoints hold both.
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
    compile: bool = False
    cuda_graph: bool = False
    recompute: bool = False
    shard: bool = False
    steps: int = 450_450
    seed: int = 0
    weights: Literal["ema", "raw"] = "ema"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    decoder_phase: DecoderPhaseConfig = field(default_factory=DecoderPhaseConfig)

    def __post_init__(self) -> None:
        require_choices(self)
        for name, low in (("global_batch", 1), ("steps", 1), ("micro_batch", 0), ("guidance", 0)):
            value = getattr(self, name)
            if not low <= value < math.inf:
                raise ConfigError(
                    f"Expected {name} >= {low}; got {value}. Give {low} or more, and finite."
                )
        if not 0 <= self.label_drop_prob < 1:
            raise ConfigError(
                f"Expected label_drop_prob in [0, 1); got {self.label_drop_prob}. "
                "The release uses 0.1."
            )
        if self.model.encoder.sigma == 0:
            raise ConfigError(
                "Expected model.encoder.sigma > 0, since the likelihood of latents without noise "
                "has no bound; got 0. The paper uses 0.3."
            )
        size, discriminator = self.model.decoder.image_size, self.decoder_phase.discriminator
        if self.decoder_phase.steps and size < discriminator.least_size:
            raise ConfigError(
                f"Expected decoder_phase.discriminator.depth for images of {size} px, at least "
                f"3 * 2^depth; got {discriminator.depth}. Lower it."
            )
        if self.model.convolutional is not None and self.mask.high > 0:
            raise ConfigError(
                "Expected mask.low = mask.high = 0 with a convolutional autoencoder, which sees "
                f"whole images; got {self.mask.low} to {self.mask.high}. Set both to 0."
            )
        are_dropped = self.model.encoder.hidden_patches == "dropped"
        if are_dropped and self.mask.per_sample and self.mask.low < self.mask.high:
            raise ConfigError(
                "Expected mask.per_sample=False with model.encoder.hidden_patches=dropped, since "
                "all images of a batch keep as many patches; got True. Set one of the two, such as "
                "model.encoder.hidden_patches=mask-token."
            )
        if self.model.is_autoencoder_fixed and self.shard:
            raise ConfigError(
                "Expected shard=False where the autoencoder is fixed; got True. Leave it out."
            )
        classes = len(self.data.class_names)
        _require_equal(
            "flow.num_classes", self.model.flow.num_classes, "the data's classes", classes
        )

    @property
    def all_steps(self) -> int:
        """Optimiser steps of both phases."""
        return self.steps + self.decoder_phase.steps

    @property
    def own_guidance(self) -> Guidance | None:
        """What the run's samples are drawn with; None for plain ones."""
        return Guidance(self.guidance) if self.guidance > 0 else None

    @property
    def trained_model(self) -> ModelConfig:
        """The networks without those that no loss term would train."""
        if self.loss.feature > 0:
            return self.model
        return dataclasses.replace(self.model, features={})
