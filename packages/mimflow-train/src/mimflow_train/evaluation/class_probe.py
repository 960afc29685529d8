"""Where in a model the class can be read off: the encoder's features and the flow by depth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import reduce
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from genmetrics import logistic_probe
from mim_encoder import random_mask
from mimflow_train.config import TrainConfig
from mimflow_train.data.images import ChosenImages, LabelledImages, Split, in_batches, to_unit
from mimflow_train.draws import generator
from mimflow_train.evaluation.selection import CHUNK, evenly, judged_images, judged_mask
from mimflow_train.model import MIMFlow

__all__ = [
    "ClassProbe",
    "Means",
    "encode_means",
    "enough_to_probe",
    "probe_classes",
    "probe_encoder",
    "probed_images",
]

_NUM_TRAIN = 2000
_OF_EACH_CLASS = 50


@dataclass(frozen=True, kw_only=True)
class ClassProbe:
    """Accuracy of linear probes on held-out images, mean over classes.

    Features are whitened, so that no stage gains or loses by the scales of its directions. Tokens
    are pooled to their mean. Images are whole, latents without noise, and the flow is not told the
    class.

    Attributes:
        n_train: Training images that the probes learn from, spread over all classes.
        n_held_out: Images that they are tested on.
        chance: One over the number of classes.
        accuracy: Of ``features`` (the encoder's), ``features masked`` (part of the image hidden),
            ``latents``, and the flow's tokens after ``block 1``, ``block 2``, ...
    """

    n_train: int
    n_held_out: int
    chance: float
    accuracy: dict[str, float]

    def to_text(self) -> str:
        """Return a table, without a final newline."""
        rows = [f"{name:<16} {value:.3f}" for name, value in self.accuracy.items()]
        rows += [f"{'chance':<16} {self.chance:.3f}"]
        rows += [f"N = {self.n_train} training and {self.n_held_out} held-out images"]
        return "\n".join(rows)


class Means(NamedTuple):
    """Latents without noise, and the encoder's features pooled to their mean over the tokens."""

    mean: Float[Tensor, "b k d"]
    features: Float[Tensor, "b width"]


@torch.no_grad()
def probe_classes(
    model: MIMFlow, config: TrainConfig, data: LabelledImages, num_train: int = _NUM_TRAIN
) -> ClassProbe:
    """Fit a logistic regression on pooled tokens at every stage of a model, and test it.

    Args:
        model: Usually the averaged weights.
        config: The run; its seed decides every draw.
        data: Training and held-out images.
        num_train: Training images, at most; as many of each class as there are.

    Raises:
        genmetrics.BadInput: If the training images are of fewer than two classes.
    """
    seen, unseen = probed_images(data, num_train, config.seed), judged_images(data)
    train = _taps(model, config, data.train, seen)
    test = _taps(model, config, data.held_out, unseen)
    train_label, test_label = data.train.labels[seen], data.held_out.labels[unseen]
    return ClassProbe(
        n_train=len(seen),
        n_held_out=len(unseen),
        chance=1 / len(data.class_names),
        accuracy={
            name: _accuracy((rows, train_label), (test[name], test_label))
            for name, rows in train.items()
        },
    )


@torch.no_grad()
def probe_encoder(
    model: MIMFlow, config: TrainConfig, data: LabelledImages, num_train: int
) -> dict[str, float]:
    """Return what :func:`probe_classes` finds of ``latents`` and ``features``, and of no others.

    Args:
        model: Usually the averaged weights.
        config: The run; its seed decides every draw.
        data: Training and held-out images.
        num_train: Training images, at most; as many of each class as there are.

    Raises:
        genmetrics.BadInput: If the training images are of fewer than two classes.
    """
    seen, unseen = probed_images(data, num_train, config.seed), judged_images(data)
    train = encode_means(model, data.train, seen)
    test = encode_means(model, data.held_out, unseen)
    train_label, test_label = data.train.labels[seen], data.held_out.labels[unseen]
    return {
        "latents": _accuracy((_pooled(train), train_label), (_pooled(test), test_label)),
        "features": _accuracy((train.features, train_label), (test.features, test_label)),
    }


def enough_to_probe(num_classes: int, least: int = _NUM_TRAIN) -> int:
    """Return how many training images a probe should learn from: 50 of each class, or more.

    Args:
        num_classes: Of how many classes the images are.
        least: How many in any case.

    Example:
        >>> enough_to_probe(14), enough_to_probe(1000)
        (2000, 50000)
    """
    return max(least, _OF_EACH_CLASS * num_classes)


def probed_images(data: LabelledImages, num_train: int, seed: int) -> list[int]:
    """Choose training images, as many of each class as there are, none twice.

    Args:
        data: Training images.
        num_train: How many, at most.
        seed: Decides which.
    """
    return evenly(data.train, torch.arange(len(data.class_names)), num_train, seed)


_Labelled = tuple[Float[Tensor, "_ f"], Int64[Tensor, " _"]]


def _accuracy(train: _Labelled, test: _Labelled) -> float:
    return logistic_probe(*train, balanced=True, whiten=True).balanced_accuracy(*test)


def _pooled(means: Means) -> Float[Tensor, "b d"]:
    return torch.cat([reduce(z, "b k d -> b d", "mean") for z in means.mean.split(CHUNK)])


@torch.no_grad()
def encode_means(
    model: MIMFlow,
    split: Split,
    chosen: Sequence[int],
    masked: Bool[Tensor, "b n"] | None = None,
) -> Means:
    """Encode some images of a split, without noise.

    Args:
        model: The networks.
        split: Images.
        chosen: Which of them.
        masked: True where a patch is hidden; None shows whole images.
    """
    device = next(model.parameters()).device
    means, features = [], []
    rows_of = torch.arange(len(chosen)).split(CHUNK)
    batches = in_batches(ChosenImages(split.images, chosen), CHUNK)
    for rows, pixels in zip(rows_of, batches, strict=True):
        hidden = None if masked is None else masked[rows].to(device)
        posterior = model.encoder(to_unit(pixels).to(device), hidden)
        means.append(posterior.mean)
        features.append(reduce(posterior.features.float(), "b k width -> b width", "mean"))
    return Means(torch.cat(means), torch.cat(features))


def _taps(
    model: MIMFlow, config: TrainConfig, split: Split, chosen: Sequence[int]
) -> Mapping[str, Float[Tensor, "b _"]]:
    """Return one row for each image at every stage."""
    draw, num_patches = generator(config.seed, "class probe"), config.model.encoder.num_patches
    masked = random_mask(len(chosen), num_patches, judged_mask(config), generator=draw)
    mean, features = encode_means(model, split, chosen)
    parts = [
        [reduce(z, "b k d -> b d", "mean"), *_pooled_states(model, z)] for z in mean.split(CHUNK)
    ]
    stages = [torch.cat(each) for each in zip(*parts, strict=True)]
    names = ["latents", *(f"block {number}" for number in range(1, len(stages)))]
    return {
        "features": features,
        "features masked": encode_means(model, split, chosen, masked).features,
        **dict(zip(names, stages, strict=True)),
    }


def _pooled_states(model: MIMFlow, z: Float[Tensor, "b k d"]) -> list[Float[Tensor, "b d"]]:
    # With the class as an argument the states would hold what the probe is asked for.
    return [reduce(each.u, "b k d -> b d", "mean") for each in model.flow.iter_states(z, None)]
