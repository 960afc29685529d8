"""Which images of a data set are looked at, what is hidden of them, and what samples are of."""

import dataclasses

import torch
from jaxtyping import Int64
from torch import Tensor

from mim_encoder import MaskRatio
from mimflow_train.config import TrainConfig
from mimflow_train.data.images import LabelledImages, Split
from mimflow_train.draws import generator

__all__ = [
    "CHUNK",
    "drawn_labels",
    "evenly",
    "judged_images",
    "judged_mask",
    "same_classes",
    "spread",
    "spread_labels",
]

CHUNK = 64  # images in a pass
_MOST_IMAGES = 5000  # of one set; more do not fit in memory at 256 px


def spread(count: int, most: int) -> Int64[Tensor, " b"]:
    """Return the numbers from 0 to ``count``, or ``most`` of them, spread evenly.

    Example:
        >>> spread(3, 12).tolist(), spread(1000, 3).tolist()
        ([0, 1, 2], [0, 499, 999])
    """
    return torch.linspace(0, count - 1, min(count, most)).long()


def spread_labels(label: Int64[Tensor, " m"], count: int) -> Int64[Tensor, " b"]:
    """Return as many labels as are wanted, spread over those that there are.

    Example:
        >>> spread_labels(torch.tensor([0, 0, 1, 2]), 2).tolist()
        [0, 2]
        >>> spread_labels(torch.tensor([0, 1]), 5).tolist()
        [0, 1, 0, 1, 0]
    """
    times, left = divmod(count, len(label))
    return torch.cat([label.repeat(times), label[spread(len(label), left)]])


def drawn_labels(
    label: Int64[Tensor, " m"], count: int, draw: torch.Generator
) -> Int64[Tensor, " b"]:
    """Return as many labels as are wanted, as :func:`spread_labels`, in random order.

    For files of samples, which ADM's script scores in parts.
    """
    spread_out = spread_labels(label, count)
    return spread_out[torch.randperm(count, generator=draw)]


def judged_images(data: LabelledImages) -> list[int]:
    """Return which held-out images are looked at: all, or many that are spread evenly."""
    return spread(len(data.held_out.labels), _MOST_IMAGES).tolist()


def judged_mask(config: TrainConfig) -> MaskRatio:
    """Return the law of hidden patches for images that are judged, each with a share of its own.

    Training draws a share for each step, and its losses are means over steps; a set is judged at
    once. Where hidden patches are dropped all images have to have the same share.

    Args:
        config: The run.
    """
    are_dropped = config.model.encoder.hidden_patches == "dropped"
    return dataclasses.replace(config.mask, per_sample=not are_dropped)


def same_classes(split: Split, label: Int64[Tensor, " b"], seed: int) -> list[int]:
    """Choose, for each label, an image of that class; none twice while there are others."""
    draw = generator(seed, "same classes")
    queues: dict[int, list[int]] = {}
    chosen = []
    for wanted in label.tolist():
        if not queues.get(wanted):
            members = torch.nonzero(split.labels == wanted).flatten()
            queues[wanted] = members[torch.randperm(len(members), generator=draw)].tolist()
        chosen.append(queues[wanted].pop())
    return chosen


def evenly(split: Split, classes: Int64[Tensor, " c"], most: int, seed: int) -> list[int]:
    """Choose images, equally many of each class or as many as there are, none twice.

    Args:
        split: Images.
        classes: Which classes; those without an image are passed over.
        most: How many images, at most.
        seed: Decides which.
    """
    wanted = classes[torch.arange(most) % len(classes)]
    return sorted(set(same_classes(split, wanted[torch.isin(wanted, split.labels)], seed)))
