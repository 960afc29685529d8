"""Every table and figure of the paper that can be measured, by name; imports no torch."""

from collections.abc import Mapping
from fractions import Fraction

from mimflow_train.reproduce.ablations import (
    BOTTLENECKS,
    NO_LENGTH,
    PLAIN,
    STARFLOW,
    TABLE5_MASK_ROWS,
    TABLE5_SIGMA_ROWS,
    TABLE5_TARGET_ROWS,
    TABLE5_TOKENS_ROWS,
    TABLE8_ROWS,
    TABLE9_ROWS,
    ablation,
)
from mimflow_train.reproduce.claims import LADDER_CLAIMS, LENGTH_CLAIMS, STEP_CLAIMS
from mimflow_train.reproduce.design import Claim, Experiment, Variant
from mimflow_train.reproduce.paper import TABLE1, TABLE2, TABLE3, TABLE4, TABLE10
from tarflow_prior import Guidance

__all__ = ["EXPERIMENTS"]

TABLE1_ROWS = ablation(
    title="Table 1: from STARFlow to end-to-end training",
    variants=tuple(
        Variant(
            label=f"{label}, guided" if guided else label,
            settings=settings,
            convolutional=True,
            two_stage=label != "end to end",
            decoder_phase=True,
            guidance="recipe" if guided else None,
            paper=TABLE1[f"{row} guided" if guided else row],
        )
        for guided in (False, True)
        for label, row, settings in (
            ("STARFlow, fixed autoencoder", "starflow", STARFLOW),
            ("softplus removed", "softplus removed", (*PLAIN, "model.flow.gate=none")),
            ("gated attention", "gated attention", PLAIN),
            ("end to end", "end to end", PLAIN),
        )
    ),
    claims=LADDER_CLAIMS,
    notes=(
        "The autoencoder is SD-VAE, fixed in the first three rows: with its published weights, at "
        "scale tiny a small one of its kind, trained to reconstruct before. Its latents get a "
        "deviation of 1 and the noise of the other rows. All decoders are trained on against a "
        "discriminator after the flow; the paper's end-to-end one meets it all along.",
        NO_LENGTH,
    ),
)

TABLE2_ROWS = Experiment(
    title="Table 2: size and work of the autoencoder, for one image of 256 px",
    measure="parameters",
    variants=(
        Variant(label="SD-VAE", paper=TABLE2["sd-vae"]),
        Variant(label="ViT-B encoder and decoder", paper=TABLE2["maetok"]),
    ),
    notes=(
        "Counted on the meta device, without weights, whatever --scale says. Multiply-adds of "
        "matrix products and convolutions. The paper's 71.25 is fvcore's count, with five for each "
        "number that is normalised; so is its 446.21, with one for each that is enlarged and "
        "nothing for attention, which diffusers fuses.",
    ),
)

TABLE3_ROWS = Experiment(
    title="Table 3: the whole method, with and without guidance",
    measure="scores",
    num=50_000,
    variants=(
        Variant(label="without guidance", decoder_phase=True, paper=TABLE3["unguided"]),
        Variant(
            label="recipe's guidance", guidance="recipe", decoder_phase=True, paper=TABLE3["guided"]
        ),
    ),
    claims=(Claim("guidance helps", "gfid", "recipe's guidance", "without guidance"),),
)

TABLE4_ROWS = Experiment(
    title="Table 4: memory and speed of a joint step, time of a sample",
    measure="step",
    variants=(
        Variant(
            label="SimFlow-like",
            settings=STARFLOW,
            convolutional=True,
            paper=TABLE4["simflow"],
        ),
        Variant(label="1/2 of the patches", tokens=Fraction(1, 2), paper=TABLE4["mimflow"]),
        Variant(label="as many tokens as patches", tokens=Fraction(1)),
    ),
    claims=STEP_CLAIMS,
    notes=(
        "SimFlow-like is STARFlow's flow and SD-VAE's networks, trained end to end, without masks "
        "and features.",
        "Times differ from run to run. Without the frozen networks; on a CPU the memory is what "
        "autograd keeps, and weights, gradients and moments.",
    ),
)

TABLE10_ROWS = Experiment(
    title="Table 10: how the flow's cost grows with the tokens",
    measure="tokens",
    variants=(
        Variant(label="1/2 of the patches", tokens=Fraction(1, 2), paper=TABLE10["128"]),
        Variant(label="as many as patches", tokens=Fraction(1), paper=TABLE10["256"]),
        Variant(label="4 times the patches", tokens=Fraction(4), paper=TABLE10["1024"]),
    ),
    claims=LENGTH_CLAIMS,
    notes=(
        "The flow alone, on random latents; a training step of a batch of 32 (8 with --quick), and "
        "one sample at a time. Times differ from run to run.",
    ),
)

FIGURE4 = Experiment(
    title="Fig. 4: map of latents by class",
    measure="map",
    variants=(
        Variant(label="convolutional VAE", settings=STARFLOW, convolutional=True, two_stage=True),
        Variant(label="plain ViT", settings=PLAIN),
        Variant(label="MIMFlow", paper={"knn": "clearer clusters (a picture)"}),
    ),
    claims=(Claim("masked latents cluster by class", "knn", "MIMFlow", "convolutional VAE"),),
    notes=(
        "The convolutional VAE is that of Table 1's fixed rows; the plain ViT is MIMFlow's network "
        "without masks and features. A map keeps neighbourhoods only: the number beside it is the "
        "accuracy of nearest neighbours among the latents themselves.",
    ),
)

FIGURE5 = Experiment(
    title="Fig. 5: ends of the spectrum of the flow's Jacobian",
    measure="spectra",
    variants=(
        Variant(label="STARFlow-like", settings=STARFLOW, convolutional=True, two_stage=True),
        Variant(label="plain VAE", settings=PLAIN),
        Variant(label="MIMFlow"),
    ),
    claims=tuple(
        Claim(text, metric, "MIMFlow", "STARFlow-like")
        for text, metric in (
            ("MIMFlow's flow is better conditioned", "log10_kappa"),
            ("its smallest singular value is larger", "log10_sigma_min"),
            ("its condition number is more concentrated", "log10_kappa_range"),
            ("its smallest singular value is more stable", "log10_sigma_min_range"),
        )
    ),
    notes=(
        "STARFlow-like is made as Table 1's first row, off tiny for all steps of the recipe as the "
        "others here; the plain VAE is MIMFlow without masks and features. "
        "Medians over held-out latents, in float64.",
    ),
)

FIGURE6 = Experiment(
    title="Fig. 6: linear probes over the depth of the flow",
    measure="depths",
    variants=(Variant(label="latents", paper={"accuracy": 0.713}), Variant(label="last block")),
    claims=(Claim("accuracy does not grow with depth", "accuracy", "latents", "last block"),),
    notes=(
        "The paper says that accuracy does not grow with depth, and falls at times: only the "
        "verdict `does not hold` contradicts it.",
        "The flow is not told the class, tokens are pooled to their mean, images are whole. The "
        "paper probes with REPA's protocol, this is a logistic regression.",
    ),
)

GUIDANCE_ROWS = Experiment(
    title="Guidance: its scale, and three readings of interval_guidance = 0.25",
    measure="scores",
    num=50_000,
    variants=(
        Variant(label="without guidance", decoder_phase=True, paper=TABLE3["unguided"]),
        *(
            Variant(
                label=f"scale {scale}",
                guidance=Guidance(scale),
                decoder_phase=True,
                paper=TABLE3["guided"] if scale == 2 else {},
            )
            for scale in (0.5, 1.0, 2.0, 3.0, 4.0)
        ),
        *(
            Variant(
                label=f"scale 2.0, {tokens}",
                guidance=Guidance(2.0, interval=interval),
                decoder_phase=True,
            )
            for tokens, interval in (
                ("every token", (0.0, 1.0)),
                ("not the last quarter", (0.0, 0.75)),
                ("neither end", (0.25, 0.75)),
            )
        ),
    ),
    claims=(Claim("guidance helps", "gfid", "scale 2.0", "without guidance"),),
    notes=(
        "The paper's code passes interval_guidance = 0.25 on to a module that was not published. "
        "Unless a row says otherwise, the first quarter of the tokens is not guided.",
    ),
)

EXPERIMENTS: Mapping[str, Experiment] = {
    "table1": TABLE1_ROWS,
    "table2": TABLE2_ROWS,
    "table3": TABLE3_ROWS,
    "table4": TABLE4_ROWS,
    "table5-mask": TABLE5_MASK_ROWS,
    "table5-target": TABLE5_TARGET_ROWS,
    "table5-tokens": TABLE5_TOKENS_ROWS,
    "table5-sigma": TABLE5_SIGMA_ROWS,
    "table8": TABLE8_ROWS,
    "table9": TABLE9_ROWS,
    "table10": TABLE10_ROWS,
    "fig4": FIGURE4,
    "fig5": FIGURE5,
    "fig6": FIGURE6,
    "bottlenecks": BOTTLENECKS,
    "guidance": GUIDANCE_ROWS,
}
