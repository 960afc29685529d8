"""What a trained model looks like from inside, on images that training never saw.

Latents are those of training, hidden in part and with noise, unless a line says otherwise. Every
number comes with its N.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

from genmetrics import project
from mim_encoder import LatentStatistics, latent_statistics, random_mask
from mimflow_train.config import TrainConfig
from mimflow_train.data.images import LabelledImages, Split
from mimflow_train.draws import generator
from mimflow_train.evaluation.class_probe import (
    ClassProbe,
    encode_means,
    enough_to_probe,
    probe_classes,
)
from mimflow_train.evaluation.flow_diagnostics import (
    BaseNoise,
    FlowByDepth,
    Likelihood,
    base_noise,
    by_depth,
    correlation,
    inversion_error,
    likelihood,
    pass_through,
)
from mimflow_train.evaluation.selection import CHUNK, judged_mask, same_classes, spread
from mimflow_train.model import MIMFlow
from mimflow_train.objective import nll_floor
from mimflow_train.storage.files import written_whole

__all__ = ["Diagnostics", "Latents", "diagnose", "write_diagnostics"]

_MOST_IMAGES = 512  # of each set; the flow's states of more do not fit in memory at scale L
_MOST_INVERTED = 128  # the inverse goes token by token


@dataclass(frozen=True, kw_only=True)
class Latents:
    """How the noiseless latents of held-out images are spread.

    Attributes:
        n: Images.
        sigma: Deviation of the noise that training adds.
        statistics: Of all entries, see :func:`mim_encoder.latent_statistics`.
        std_by_dim: Deviation of each dimension over images and tokens, largest first.
        correlation: Mean absolute correlation of two dimensions, over images and tokens.
        places: Each image on the first two principal components of its latents.
        labels: Its class.
    """

    n: int
    sigma: float
    statistics: LatentStatistics
    std_by_dim: tuple[float, ...]
    correlation: float
    places: tuple[tuple[float, float], ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """A trained model from inside.

    Attributes:
        likelihood: NLL of ``train``, ``held_out``, ``held_out_no_class`` (the same latents, the
            null class) and ``samples`` (the flow's own, of the same classes, without guidance).
        nll_floor: The least that the latent noise allows.
        inversion_error: Largest difference of an entry and its way through the flow and back.
        num_inverted: Held-out latents that were sent.
        base: What the flow makes of held-out latents.
        depth: The flow block by block, on the same.
        latents: The encoder's output.
        probe: Where in the model the class can be read off; None where there is one class.
    """

    likelihood: dict[str, Likelihood]
    nll_floor: float
    inversion_error: float
    num_inverted: int
    base: BaseNoise
    depth: FlowByDepth
    latents: Latents
    probe: ClassProbe | None


@torch.no_grad()
def diagnose(model: MIMFlow, config: TrainConfig, data: LabelledImages) -> Diagnostics:
    """Look into a trained model.

    Args:
        model: Usually the averaged weights.
        config: The run; its seed decides every draw.
        data: Training and held-out images.

    Raises:
        ValueError: If fewer than two images are held out.
    """
    flow, drawn = model.flow, generator(config.seed, "diagnostics samples")
    chosen = spread(len(data.held_out.labels), _MOST_IMAGES).tolist()
    label = data.held_out.labels[chosen]
    mean, z = _latents(model, config, data.held_out, chosen)
    _, z_train = _latents(model, config, data.train, same_classes(data.train, label, config.seed))
    samples = [flow.sample(part, generator=drawn) for part in label.split(4 * CHUNK)]
    passage = pass_through(flow, z, label)
    return Diagnostics(
        likelihood={
            "train": likelihood(pass_through(flow, z_train, label)),
            "held_out": likelihood(passage),
            "held_out_no_class": likelihood(pass_through(flow, z, torch.full_like(label, -1))),
            "samples": likelihood(pass_through(flow, torch.cat(samples), label)),
        },
        nll_floor=nll_floor(config.model.encoder.sigma),
        inversion_error=inversion_error(flow, z[:_MOST_INVERTED]),
        num_inverted=min(len(z), _MOST_INVERTED),
        base=base_noise(passage.states[-1]),
        depth=by_depth(passage),
        latents=_spread_of(mean.cpu(), config.model.encoder.sigma, label),
        probe=_probe(model, config, data),
    )


def write_diagnostics(diagnostics: Diagnostics, run_dir: Path) -> Path:
    """Write ``diagnostics.json`` into a run folder.

    Args:
        diagnostics: What was found.
        run_dir: The run.
    """
    plain = dataclasses.asdict(diagnostics)
    plain["latents"]["statistics"] = diagnostics.latents.statistics._asdict()
    path = run_dir / "diagnostics.json"
    with written_whole(path) as draft:
        draft.write_text(json.dumps(plain, allow_nan=False) + "\n")
    return path


def _probe(model: MIMFlow, config: TrainConfig, data: LabelledImages) -> ClassProbe | None:
    num_classes = len(data.class_names)
    if num_classes == 1:
        return None
    return probe_classes(model, config, data, enough_to_probe(num_classes))


def _latents(
    model: MIMFlow, config: TrainConfig, split: Split, chosen: list[int]
) -> tuple[Float[Tensor, "b k d"], Float[Tensor, "b k d"]]:
    """Return latents as training makes them: without the noise, and with it."""
    encoder, draw = config.model.encoder, generator(config.seed, "diagnostics latents")
    masked = random_mask(len(chosen), encoder.num_patches, judged_mask(config), generator=draw)
    mean = encode_means(model, split, chosen, masked).mean
    noise = torch.randn(mean.shape, generator=draw).to(mean.device)
    return mean, mean + encoder.sigma * noise


def _spread_of(mean: Float[Tensor, "b k d"], sigma: float, label: Int64[Tensor, " b"]) -> Latents:
    places = project(rearrange(mean, "b k d -> b (k d)"), method="pca")
    return Latents(
        n=len(mean),
        sigma=sigma,
        statistics=latent_statistics(mean, sigma),
        std_by_dim=tuple(mean.double().std((0, 1)).sort(descending=True).values.tolist()),
        correlation=correlation(mean),
        places=tuple((round(x, 4), round(y, 4)) for x, y in places.tolist()),
        labels=tuple(label.tolist()),
    )
