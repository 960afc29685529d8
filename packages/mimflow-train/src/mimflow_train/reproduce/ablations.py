"""The paper's ablations, section 4.3 and Appendix C, as data; imports no torch."""

from fractions import Fraction
from functools import partial

from mimflow_train.reproduce.claims import (
    COMPONENT_CLAIMS,
    MASK_CLAIMS,
    SIGMA_CLAIMS,
    TARGET_CLAIMS,
    TOKEN_CLAIMS,
    WEIGHT_CLAIMS,
)
from mimflow_train.reproduce.design import Claim, Experiment, Variant
from mimflow_train.reproduce.paper import (
    TABLE5_MASK,
    TABLE5_SIGMA,
    TABLE5_TARGET,
    TABLE5_TOKENS,
    TABLE8,
    TABLE9,
)

__all__ = [
    "BOTTLENECKS",
    "NO_LENGTH",
    "PLAIN",
    "STARFLOW",
    "TABLE5_MASK_ROWS",
    "TABLE5_SIGMA_ROWS",
    "TABLE5_TARGET_ROWS",
    "TABLE5_TOKENS_ROWS",
    "TABLE8_ROWS",
    "TABLE9_ROWS",
    "ablation",
]

# Section 4.3: 50 epochs of ImageNet in batches of 256, and 10,000 samples.
ablation = partial(Experiment, measure="scores", paper_settings=("steps=250250",), num=10_000)
_NO_MASK = ("mask.low=0.0", "mask.high=0.0")
_HALF = ("mask.low=0.5", "mask.high=0.5")
PLAIN = (*_NO_MASK, "loss.feature=0.0")  # a VAE with a flow as its prior
STARFLOW = (*PLAIN, "model.flow.scale=softplus", "model.flow.gate=none")
_FEATURES_UNMASKED = (
    "The auxiliary loss is over hidden patches (Appendix A), and over all where none is hidden."
)
_THREE_TARGETS = (
    "The paper's row {} has the gFID, IS, precision and recall of `all` in Table 5b, so its runs "
    "seem to imitate DINO, CLIP and HOG; here the recipe of scales S to XXL imitates DINO and CLIP."
)

NO_LENGTH = (
    "The paper gives no length of these runs; off scale tiny they are as long as section 4.3's."
)


def _mask(low: float, high: float) -> tuple[str, ...]:
    return (f"mask.low={low}", f"mask.high={high}")


TABLE5_MASK_ROWS = ablation(
    title="Table 5a: share of hidden patches",
    variants=(
        Variant(label="none", settings=_NO_MASK, paper=TABLE5_MASK["none"]),
        Variant(label="0.2-0.4", settings=_mask(0.2, 0.4), paper=TABLE5_MASK["0.2-0.4"]),
        Variant(label="0.4-0.6", settings=_mask(0.4, 0.6), paper=TABLE5_MASK["0.4-0.6"]),
        Variant(label="0.6-0.8", settings=_mask(0.6, 0.8), paper=TABLE5_MASK["0.6-0.8"]),
        Variant(
            label="mix",
            settings=(*_mask(0.0, 0.8), "mask.law=uniform", "mask.per_sample=true"),
            paper=TABLE5_MASK["mix"],
        ),
    ),
    claims=MASK_CLAIMS,
    notes=(
        _FEATURES_UNMASKED,
        "The paper does not say what its mixture is; here every image has a share of its own, "
        "uniform from 0 to 0.8.",
        "The text says that latents are less semantic without masks than with; in the paper's own "
        "table 0.2-0.4 and the mixture are below none.",
        _THREE_TARGETS.format("0.4-0.6"),
    ),
)

TABLE5_TARGET_ROWS = ablation(
    title="Table 5b: what the feature decoders imitate",
    variants=(
        *(
            Variant(label=label, targets=targets, scales="paper", paper=TABLE5_TARGET[key])
            for label, key, targets in (
                ("DINO", "dino", ("dinov2",)),
                ("DINO + HOG", "dino hog", ("dinov2", "hog")),
                ("DINO + CLIP", "dino clip", ("dinov2", "clip")),
                ("CLIP + HOG", "clip hog", ("clip", "hog")),
                ("all", "all", ("dinov2", "clip", "hog")),
            )
        ),
        Variant(label="EfficientNet-Lite0", targets=("efflite0",), scales="tiny"),
        Variant(label="HOG alone", targets=("hog",), scales="tiny"),
        Variant(label="EfficientNet-Lite0 + HOG", targets=("efflite0", "hog"), scales="tiny"),
    ),
    claims=TARGET_CLAIMS,
    notes=(
        "At scale tiny EfficientNet-Lite0 stands for the paper's DINO and CLIP. The scores are "
        "made with the same network, which may favour it.",
    ),
)

TABLE5_TOKENS_ROWS = ablation(
    title="Table 5c: number of latent tokens",
    variants=(
        Variant(label="1/4 of the patches", tokens=Fraction(1, 4), paper=TABLE5_TOKENS["64"]),
        Variant(label="1/2 of the patches", tokens=Fraction(1, 2), paper=TABLE5_TOKENS["128"]),
        Variant(label="3/4 of the patches", tokens=Fraction(3, 4), paper=TABLE5_TOKENS["192"]),
        Variant(label="as many as patches", tokens=Fraction(1), scales="tiny"),
    ),
    claims=TOKEN_CLAIMS,
    notes=(
        "The paper's 64, 128 and 192 tokens are 1/4, 1/2 and 3/4 of its 256 patches. Scale tiny "
        "has 16 patches, and its recipe 16 tokens. Its feature decoder is a transformer in these "
        "rows.",
    ),
)

TABLE5_SIGMA_ROWS = ablation(
    title="Table 5d: deviation of the latent noise",
    variants=tuple(
        Variant(label=sigma, settings=(f"model.encoder.sigma={sigma}",), paper=TABLE5_SIGMA[sigma])
        for sigma in ("0.2", "0.3", "0.5")
    ),
    claims=SIGMA_CLAIMS,
    notes=(_THREE_TARGETS.format("0.3"),),
)

TABLE8_ROWS = ablation(
    title="Table 8: one component after the other",
    variants=(
        Variant(
            label="baseline (SD-VAE, 256 tokens, GAN)",
            settings=PLAIN,
            convolutional=True,
            decoder_phase=True,
            paper=TABLE8["baseline"],
        ),
        Variant(label="learnable tokens, no GAN", settings=PLAIN, paper=TABLE8["tokens"]),
        Variant(
            label="+ auxiliary loss",
            settings=_NO_MASK,
            paper=TABLE8["auxiliary"],
        ),
        Variant(label="+ masking", paper=TABLE8["masking"]),
        Variant(label="+ GAN fine-tuning", decoder_phase=True, paper=TABLE8["full"]),
    ),
    claims=COMPONENT_CLAIMS,
    notes=(
        _FEATURES_UNMASKED,
        "The baseline is Table 1's end-to-end row: at scale tiny a small network of SD-VAE's kind, "
        "as many tokens as the recipe's, and the GAN at the end.",
        NO_LENGTH,
        "A run of the same parts has another number in the paper's Table 5b: `+ masking` 12.46. "
        "Table 5a's without masks, 29.0, seems to have gradients among its targets too.",
    ),
)

TABLE9_ROWS = ablation(
    title="Table 9: weight of hidden pixels in the reconstruction loss",
    variants=tuple(
        Variant(label=weight, settings=(f"loss.hidden_pixels={weight}.0",), paper=TABLE9[weight])
        for weight in ("1", "5", "10")
    ),
    claims=WEIGHT_CLAIMS,
)

BOTTLENECKS = ablation(
    title="Section 3.1: learnable tokens against the bottlenecks of MAE and SimMIM",
    variants=(
        Variant(label="learnable tokens, half hidden", settings=_HALF, tokens=Fraction(1, 2)),
        Variant(
            label="MAE, half hidden",
            settings=(
                *_HALF,
                "model.encoder.bottleneck=mae",
                "model.encoder.hidden_patches=dropped",
            ),
            tokens=Fraction(1, 2),
        ),
        Variant(label="learnable tokens, one for each patch", tokens=Fraction(1)),
        Variant(
            label="SimMIM",
            settings=("model.encoder.bottleneck=simmim",),
            tokens=Fraction(1),
        ),
    ),
    claims=(
        Claim(
            "learnable tokens beat the visible patches",
            "gfid",
            "learnable tokens, half hidden",
            "MAE, half hidden",
        ),
        Claim(
            "learnable tokens beat all patches",
            "gfid",
            "learnable tokens, one for each patch",
            "SimMIM",
        ),
    ),
    notes=(
        "The paper argues this in words and gives no numbers.",
        "MAE's latents are the visible patches, so no image can be encoded whole: its scores of "
        "whole images do not exist.",
    ),
)
