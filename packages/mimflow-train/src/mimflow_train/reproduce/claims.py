"""What the paper's text concludes from its tables, as orders of two rows; imports no torch."""

from itertools import pairwise

from mimflow_train.reproduce.design import COLLAPSE, Claim

__all__ = [
    "COMPONENT_CLAIMS",
    "LADDER_CLAIMS",
    "LENGTH_CLAIMS",
    "MASK_CLAIMS",
    "SIGMA_CLAIMS",
    "STEP_CLAIMS",
    "TARGET_CLAIMS",
    "TOKEN_CLAIMS",
    "WEIGHT_CLAIMS",
]


_LADDER = ("STARFlow, fixed autoencoder", "softplus removed", "gated attention", "end to end")
_STEPS = ("exp beats softplus", "gates help", "end to end beats two stages")
LADDER_CLAIMS = (  # section 4.1
    *(
        Claim(text, "gfid", after, before)
        for text, (before, after) in zip(_STEPS, pairwise(_LADDER), strict=True)
    ),
    *(
        Claim(f"{text}, with guidance", metric, f"{after}, guided", f"{before}, guided")
        for metric, steps in (("gfid", 3), ("sfid", 2))
        for text, (before, after) in zip(
            _STEPS[:steps], pairwise(_LADDER[: steps + 1]), strict=True
        )
    ),
)

_MASKED = ("0.2-0.4", "0.4-0.6", "0.6-0.8", "mix")
MASK_CLAIMS = (  # section 4.3, The Necessity of Masked Decoupling
    Claim("masking beats none", "gfid", "0.4-0.6", "none"),
    Claim("masked latents are more semantic", "accuracy", "0.4-0.6", "none"),
    Claim("few hidden are not enough", "gfid", "0.4-0.6", "0.2-0.4"),
    Claim("many hidden are too many", "gfid", "0.4-0.6", "0.6-0.8"),
    Claim("a mixture is worse", "gfid", "0.4-0.6", "mix"),
    *(
        Claim(f"0.4-0.6 is more semantic than {other}", "accuracy", "0.4-0.6", other)
        for other in ("0.2-0.4", "0.6-0.8", "mix")
    ),
    *(
        Claim(text.format(other), metric, other, "none")
        for text, metric in (
            ("none is the poorest, poorer than {}", "gfid"),
            ("by the text, latents are less semantic without masks than at {}", "accuracy"),
        )
        for other in _MASKED
        if other != "0.4-0.6"
    ),
)

_LITE, _HOG = "EfficientNet-Lite0", "EfficientNet-Lite0 + HOG"
TARGET_CLAIMS = (  # section 4.3, Synergy of Auxiliary Semantic Priors
    Claim("DINO and CLIP complement each other", "gfid", "DINO + CLIP", "DINO"),
    Claim("HOG instead of DINO harms", "gfid", "DINO + CLIP", "CLIP + HOG"),
    Claim("HOG instead of CLIP harms", "gfid", "DINO + CLIP", "DINO + HOG"),
    Claim("HOG instead of CLIP makes training collapse", COLLAPSE, "DINO + CLIP", "DINO + HOG"),
    Claim("HOG beside both harms", "gfid", "DINO + CLIP", "all"),
    Claim("a network's features beat gradients", "gfid", _LITE, "HOG alone"),
    Claim("HOG beside it harms", "gfid", _LITE, _HOG),
)

_QUARTER, _HALF, _THREE_QUARTERS = (f"{share} of the patches" for share in ("1/4", "1/2", "3/4"))
TOKEN_CLAIMS = (  # section 4.3, Optimal Bottleneck Size
    Claim("half the patches beat a quarter", "gfid", _HALF, _QUARTER),
    Claim("more tokens let details into the flow", "gfid", _HALF, _THREE_QUARTERS),
    Claim("half the patches reconstruct better than a quarter", "rfid", _HALF, _QUARTER),
    Claim("more tokens reconstruct worse", "rfid", _HALF, _THREE_QUARTERS),
)

SIGMA_CLAIMS = (  # section 4.3, Impact of Latent Stochasticity
    Claim("less noise is worse", "gfid", "0.3", "0.2"),
    Claim("more noise is worse", "gfid", "0.3", "0.5"),
    Claim("noise costs reconstruction", "rfid", "0.3", "0.5"),
)

_BASELINE, _TOKENS = "baseline (SD-VAE, 256 tokens, GAN)", "learnable tokens, no GAN"
_AUXILIARY, _MASKING, _TUNED = "+ auxiliary loss", "+ masking", "+ GAN fine-tuning"
COMPONENT_CLAIMS = (  # Appendix C.1
    Claim("masking makes the difference", "gfid", _MASKING, _AUXILIARY),
    Claim("masking surpasses the baseline with a GAN", "gfid", _MASKING, _BASELINE),
    Claim("tokens without a GAN are worse than the baseline", "gfid", _BASELINE, _TOKENS),
    Claim("the auxiliary loss raises the Inception Score", "is", _AUXILIARY, _TOKENS),
    Claim("the decoder phase helps samples", "gfid", _TUNED, _MASKING),
    Claim("the decoder phase helps reconstruction", "rfid", _TUNED, _MASKING),
)

WEIGHT_CLAIMS = (  # Appendix C.2
    Claim("equal weights beat 5", "gfid", "1", "5"),
    Claim("equal weights beat 10", "gfid", "1", "10"),
    Claim("equal weights reconstruct better than 5", "rfid", "1", "5"),
    Claim("equal weights reconstruct better than 10", "rfid", "1", "10"),
)

STEP_CLAIMS = tuple(  # section 4.2
    Claim(f"half the tokens take {what}", metric, _HALF, "SimFlow-like")
    for what, metric in (
        ("less memory", "memory_gb"),
        ("less time a step", "steps_per_s"),
        ("less time a sample", "sample_s"),
    )
)

LENGTH_CLAIMS = tuple(  # Appendix C.3
    Claim(f"fewer tokens are faster in {what}", metric, _HALF, more)
    for what, metric in (("training", "train_ms"), ("sampling", "sample_s"))
    for more in ("as many as patches", "4 times the patches")
)
