"""What each scale learns, complete; `--scale NAME` is one of these functions. Imports no torch."""

from collections.abc import Callable

from mim_encoder import EncoderConfig, MaskRatio
from mimflow_train.config import DataConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig
from mimflow_train.data.glyphs import CLASS_NAMES
from tarflow_prior import TarFlowConfig
from vit_decoder import DecoderConfig, FeatureDecoderConfig

__all__ = ["RECIPES", "tiny"]


def tiny(class_names: tuple[str, ...] = CLASS_NAMES, source: str = "emoji") -> TrainConfig:
    """Twemoji at 32 px in minutes on two CPU cores: `mimflow-train`."""
    encoder = EncoderConfig(
        image_size=32,
        patch_size=4,
        width=192,
        depth=4,
        num_heads=3,
        num_latents=16,
        latent_dim=16,
        layer_scale=None,
    )
    decoder = DecoderConfig(
        image_size=32,
        patch_size=4,
        width=192,
        depth=4,
        num_heads=3,
        num_latents=16,
        latent_dim=16,
        layer_scale=None,
        drop_path=0.0,
    )
    return TrainConfig(
        scale="tiny",
        model=ModelConfig(
            encoder=encoder,
            flow=TarFlowConfig(
                num_tokens=16,
                token_dim=16,
                width=256,
                depths=(1, 1, 1, 4),
                num_classes=len(class_names),
            ),
            decoder=decoder,
            features={
                "efflite0": FeatureDecoderConfig(
                    num_latents=16, latent_dim=16, grid=(8, 8), feature_dim=112, kind="mlp"
                )
            },
        ),
        loss=LossConfig(nll=0.02, pixel=1.0, perceptual=0.1, feature=0.02),
        optim=OptimConfig(lr=1e-3, warmup_steps=50, schedule="cosine", ema_decay=0.995),
        data=DataConfig(source=source, class_names=class_names, even_classes=True, flip=False),
        mask=MaskRatio(),
        global_batch=64,
        steps=1000,
        precision="bf16",
    )


RECIPES: dict[str, Callable[[tuple[str, ...], str], TrainConfig]] = {"tiny": tiny}
