"""Tables of the paper whose rows are scores of runs, and the one that is counted."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mimflow_train.config import ConvolutionalConfig, ModelConfig
from mimflow_train.device.work import Work, forward_work
from mimflow_train.evaluation.class_probe import enough_to_probe, probed_images
from mimflow_train.model import MIMFlow
from mimflow_train.recipes import IMAGENET_CLASSES, paper
from mimflow_train.reproduce.design import Experiment, Variant
from mimflow_train.reproduce.outcome import Column, Outcome, Row
from mimflow_train.reproduce.pictures import draw_rows
from mimflow_train.reproduce.rows import measure_row
from mimflow_train.reproduce.scoring import CLASS_NETWORKS, score, score_folder
from mimflow_train.reproduce.session import Session
from mimflow_train.reproduce.trained import Trained
from mimflow_train.reproduce.variants import row_guidance, variant_config
from mimflow_train.telemetry.console import say

__all__ = ["count_parameters", "score_rows"]

_PROBE_NOTE = (
    "The probes are logistic regressions on the latents, and on the encoder's features before "
    "their last projection (SD-VAE's kind has none), pooled over the tokens; mean accuracy over "
    "classes. The paper does not say which of the two its Acc. is of (the release's script reads "
    "the features), and follows REPA's protocol, which is not this one."
)
_REFERENCE_NOTE = (
    "The reference is the held-out images: for precision and recall all of them, where ADM's "
    "batch, the paper's, has 10,000 images and FID's statistics are of the training set. To score "
    "against that: genmetrics eval SAMPLES.npz --ref VIRTUAL_imagenet256_labeled.npz, with the "
    "samples named below."
)


def score_rows(session: Session, name: str, experiment: Experiment) -> Outcome:
    """Train and score every row for every seed, and draw the distances of the samples.

    Args:
        session: What to do it with.
        name: The experiment's folder.
        experiment: The rows.
    """
    columns = score_columns(session.extractor_name)
    distance = next(each for each in columns if each.key == "gfid")
    rows = tuple(_score_row(session, experiment, each, distance) for each in experiment.variants)
    pictures: tuple[str, ...] = ()
    if any(row.numbers("gfid") for row in rows):
        pictures = (f"{name}.png",)
        draw_rows(rows, distance, session.out / name / pictures[0])
    count, real = session.num_samples(experiment), len(session.data.held_out.labels)
    counts = (
        f"N = {count} samples against {real} held-out images, of all of which reconstructions are; "
        "linear probes are judged on at most 5,000 and learn from "
        f"{_learned(session, experiment)}; {len(session.seeds)} seed(s): "
        f"{', '.join(map(str, session.seeds))}"
    )
    notes = (_PROBE_NOTE, *([_REFERENCE_NOTE] if session.extractor_name == "inception" else []))
    return Outcome(columns=columns, rows=rows, counts=counts, notes=notes, pictures=pictures)


def _learned(session: Session, experiment: Experiment) -> str:
    data, base = session.data, session.base
    run = [each for each in experiment.variants if not each.why_not(base.scale)]
    configs = [variant_config(base, experiment, each, base.seed, session.settings) for each in run]
    dims = sorted({each.model.encoder.latent_dim for each in configs})
    count = len(probed_images(data, enough_to_probe(len(data.class_names)), base.seed))
    return (
        f"{count} training images spread over {len(data.class_names)} classes, by latents pooled "
        f"to their mean over the tokens, {'- and '.join(map(str, dims))}-d"
    )


def score_columns(extractor: str) -> tuple[Column, ...]:
    """Return the scores by the names that they deserve: FID is Inception's alone.

    Args:
        extractor: The feature network.
    """
    inception = extractor == "inception"

    def honest(inceptions: str, others: str) -> str:
        return inceptions if inception else f"{others}_{extractor}"

    names = [
        ("gfid", "gFID", honest("gFID", "fd"), 2),
        ("sfid", "sFID", "sFID", 2),
        ("rfid", "rFID", honest("rFID", "rfd"), 2),
        ("rfid_masked", "", f"{honest('rFID', 'rfd')}, hidden in part", 2),
        ("fd_rebuilt", "", f"{honest('FID', 'fd')} of other images, reconstructed", 2),
        ("is", "IS", honest("IS", "is"), 2),
        ("precision", "Prec.", honest("Prec.", "precision"), 3),
        ("recall", "Rec.", honest("Rec.", "recall"), 3),
        ("accuracy", "Acc.", "probe of latents", 3),
        ("accuracy_features", "", "probe of features", 3),
        ("psnr", "", "PSNR, dB", 2),
    ]
    return tuple(
        Column(key=key, paper=theirs, ours=ours, digits=digits)
        for key, theirs, ours, digits in names
        if key != "is" or extractor in CLASS_NETWORKS
    )


def _score_row(session: Session, experiment: Experiment, variant: Variant, distance: Column) -> Row:
    folders: list[str] = []
    num = session.num_samples(experiment)

    def measure_run(run: Trained) -> dict[str, float]:
        guidance = row_guidance(variant, run.config)
        scores = score(session, run, guidance, num)
        folders.append(score_folder(session, run, guidance, num).name)
        found = f"{distance.ours} {scores[distance.key]:.{distance.digits}f}"
        say(f"{variant.label}, seed {run.config.seed}: {found}")
        return scores

    row = measure_row(session, experiment, variant, measure_run)
    return replace(row, samples=tuple(f"scores/{name}/samples.npz" for name in folders))


def count_parameters(experiment: Experiment) -> Outcome:
    """Count both autoencoders without weights, by the same counter.

    Args:
        experiment: The rows: SD-VAE and the paper's autoencoder.

    Raises:
        ConfigError: If diffusers is not installed.
    """
    own = replace(paper("L", IMAGENET_CLASSES, "imagenet").model, features={})
    models = own.with_convolutions(ConvolutionalConfig()), own
    rows = tuple(
        Row(
            label=variant.label,
            paper=variant.paper,
            ours={"parameters_m": (work.parameters / 1e6,), "gmac": (work.gmac,)},
        )
        for variant, work in zip(experiment.variants, map(_work, models), strict=True)
    )
    columns = (
        Column(key="parameters_m", paper="parameters, M", ours="parameters, M", digits=2),
        Column(key="gmac", paper="FLOPs, G", ours="GMAC", digits=2),
    )
    return Outcome(columns=columns, rows=rows, counts="counted, not measured: no seed matters")


class _Autoencoder(nn.Module):
    """Encoder and pixel decoder, for whole images."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        model = MIMFlow(config)
        self.encoder, self.decoder = model.encoder, model.decoder

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        restored: Tensor = self.decoder(self.encoder(image).mean)
        return restored


def _work(config: ModelConfig) -> Work:
    size = config.encoder.image_size
    with torch.device("meta"):
        return forward_work(_Autoencoder(config), torch.empty(1, 3, size, size))
