"""What each scale learns, complete; ``--scale NAME`` is one of these. Imports no torch."""

from collections.abc import Callable
from functools import partial
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

__all__ = ["IMAGENET_CLASSES", "RECIPES", "paper", "tiny"]

IMAGENET_CLASSES = tuple(f"class {number}" for number in range(1000))


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
        guidance=3.0 if len(class_names) > 1 else 0.0,
        global_batch=64,
        steps=620,
        decoder_phase=DecoderPhaseConfig(
            steps=110,
            gan_weight=3.0,
            augment=True,
            discriminator=DiscriminatorConfig(depth=2),
            optim=OptimConfig(
                lr=5e-4, clip_norm=120.0, warmup_steps=20, schedule="cosine", ema_decay=0.99
            ),
        ),
    )


_AUTOENCODERS = {"S": "S", "B": "B", "L": "B", "XL": "L", "XXL": "B"}
_PAPER_TEACHERS = ("dinov2", "clip")


def paper(scale: str, class_names: tuple[str, ...], source: str) -> TrainConfig:
    """Return the paper's recipe at 256 px: ``L`` is MIMFlow-L, the others are its neighbours.

    450,450 + 10,010 steps of 256 images are 90 + 2 epochs of ImageNet. No run of this length has
    been made with this code; the paper does not say how long it took.

    Args:
        scale: S, B, L, XL or XXL: the flow's size; S is with ViT-S, XL with ViT-L, the others are
            with ViT-B as encoder and decoder.
        class_names: Classes of the images.
        source: ``emoji`` or a folder.
    """
    size = _AUTOENCODERS[scale]
    encoder = EncoderConfig.preset(size)
    teachers = {name: FeatureDecoderConfig(feature_dim=TEACHERS[name]) for name in _PAPER_TEACHERS}
    return TrainConfig(
        scale=scale,
        model=ModelConfig(
            encoder=encoder,
            flow=TarFlowConfig.preset(
                scale,
                num_tokens=encoder.num_latents,
                token_dim=encoder.latent_dim,
                num_classes=len(class_names),
            ),
            decoder=DecoderConfig.preset(size),
            features=teachers,
        ),
        loss=LossConfig(perceptual=1.1, perceptual_network="lpips"),
        optim=OptimConfig(),
        data=DataConfig(source=source, class_names=class_names, loaders=6),
        mask=MaskRatio(),
        guidance=2.0 if len(class_names) > 1 else 0.0,
    )


RECIPES: dict[str, Callable[[tuple[str, ...], str], TrainConfig]] = {
    "tiny": tiny,
    **{scale: partial(paper, scale) for scale in _AUTOENCODERS},
}
