"""What each scale learns, complete; ``--scale NAME`` is one of these. Imports no torch."""

from collections.abc import Callable
from typing import Any

from mim_encoder import EncoderConfig, MaskRatio
from mimflow_train.config import (
    TEACHERS,
    DataConfig,
    DecoderPhaseConfig,
    DiscriminatorConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from mimflow_train.data.glyphs import CLASS_NAMES
from tarflow_prior import TarFlowConfig
from vit_decoder import DecoderConfig, FeatureDecoderConfig

__all__ = ["RECIPES", "tiny"]


def tiny(class_names: tuple[str, ...] = CLASS_NAMES, source: str = "emoji") -> TrainConfig:
    """Return the recipe of ``mimflow-train``: 32 px in minutes on two CPU cores.

    The NLL is a mean over 256 latent dimensions and the pixel loss one over 3,072 values, so equal
    weights collapse the posterior. A pixel weight of 320 is the ELBO of a decoder with pixel noise
    0.14: ``3072 / (2 * 0.14^2) / 256 = 306``.

    Expected on emoji: benchmarks/default_run.md.

    Args:
        class_names: Classes of the images.
        source: ``emoji`` or a folder.
    """
    latents: dict[str, Any] = {"num_latents": 16, "latent_dim": 16}
    images: dict[str, Any] = {
        "image_size": 32,
        "patch_size": 8,
        "width": 192,
        "num_heads": 3,
        "layer_scale": None,
    }
    teacher = FeatureDecoderConfig(
        grid=(4, 4), feature_dim=TEACHERS["efflite0"], kind="mlp", **latents
    )
    return TrainConfig(
        scale="tiny",
        model=ModelConfig(
            encoder=EncoderConfig(depth=3, **images, **latents),
            flow=TarFlowConfig(
                num_tokens=16,
                token_dim=16,
                width=256,
                depths=(1, 1, 1, 5),
                num_classes=len(class_names),
            ),
            decoder=DecoderConfig(depth=4, drop_path=0.0, **images, **latents),
            features={"efflite0": teacher},
        ),
        loss=LossConfig(nll=1.0, pixel=320.0, perceptual=19.0, feature=8.0),
        optim=OptimConfig(
            lr=1.2e-3, clip_norm=120.0, warmup_steps=100, schedule="cosine", ema_decay=0.995
        ),
        data=DataConfig(source=source, class_names=class_names, even_classes=True, flip=False),
        mask=MaskRatio(),
        guidance=3.0,
        global_batch=64,
        steps=1100,
        decoder_phase=DecoderPhaseConfig(
            steps=0,
            gan_weight=1.0,
            discriminator=DiscriminatorConfig(width=32, depth=2),
            optim=OptimConfig(
                lr=5e-4, clip_norm=120.0, warmup_steps=20, schedule="cosine", ema_decay=0.99
            ),
        ),
    )


RECIPES: dict[str, Callable[[tuple[str, ...], str], TrainConfig]] = {"tiny": tiny}
