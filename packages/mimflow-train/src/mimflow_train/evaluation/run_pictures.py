"""The pictures of a run: samples of each class, and held-out images beside what came back."""

from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from mim_encoder import mask_image
from mimflow_train.config import TrainConfig
from mimflow_train.data.images import LabelledImages, to_bytes, to_unit
from mimflow_train.draws import generator
from mimflow_train.evaluation.pictures import save_grid
from mimflow_train.evaluation.reconstruction import decode, encode
from mimflow_train.evaluation.sampling import generate
from mimflow_train.evaluation.selection import spread
from mimflow_train.model import MIMFlow

__all__ = ["grid_pixels", "reconstruction_grid", "sample_grid", "sample_rows", "shown_classes"]

_COLUMNS, _ROWS = 12, 12
_ROWS_OF_ONE_CLASS = 4


def grid_pixels(config: TrainConfig) -> int:
    """Return the pixels of the samples in a grid.

    Args:
        config: The run.
    """
    size = config.model.encoder.image_size
    return len(shown_classes(len(config.data.class_names))) * _COLUMNS * size * size


def sample_grid(model: MIMFlow, config: TrainConfig, data: LabelledImages, path: Path) -> None:
    """Write the samples of :func:`sample_rows`.

    Args:
        model: Draws the samples.
        config: The run.
        data: Images; only the names of the classes are looked at.
        path: A .png file.
    """
    save_grid(*sample_rows(model, config, data), path)


def sample_rows(
    model: MIMFlow, config: TrainConfig, data: LabelledImages
) -> tuple[list[Tensor], list[str]]:
    """Draw samples of up to twelve classes, a row for each, four of one class; equal noise always.

    Args:
        model: Draws the samples.
        config: The run.
        data: Images; only the names of the classes are looked at.

    Returns:
        The rows, and the name of each.
    """
    shown = shown_classes(len(data.class_names))
    label = shown.repeat_interleave(_COLUMNS)
    draw = generator(config.seed, "sample grid")
    images = torch.cat([*generate(model, label, draw, guidance=config.own_guidance)])
    return [*images.split(_COLUMNS)], [data.class_names[each] for each in shown.tolist()]


def shown_classes(num_classes: int) -> Int64[Tensor, " rows"]:
    """Return the class of each row of a grid: twelve at most, spread evenly.

    Example:
        >>> shown_classes(2).tolist(), len(shown_classes(1000))
        ([0, 1], 12)
    """
    if num_classes == 1:
        return torch.zeros(_ROWS_OF_ONE_CLASS, dtype=torch.int64)
    return spread(num_classes, _ROWS)


def reconstruction_grid(
    model: MIMFlow, config: TrainConfig, data: LabelledImages, path: Path
) -> None:
    """Write up to 24 held-out images: original, what the encoder saw, what the decoder made of it.

    Args:
        model: Encodes and decodes.
        config: The run.
        data: Images; only the held-out ones are looked at.
        path: A .png file.
    """
    chosen = spread(len(data.held_out.labels), 2 * _COLUMNS).tolist()
    pixels = data.held_out.stack(chosen)
    encoding = encode(model, config, pixels, "reconstruction grid")
    decoded = decode(model, encoding.z)
    seen = mask_image(to_unit(pixels), encoding.masked, config.model.encoder.patch_size)
    parts = (each.split(_COLUMNS) for each in (pixels, to_bytes(seen), decoded))
    rows = [row for three in zip(*parts, strict=True) for row in three]
    save_grid(rows, ["image", "masked", "decoded"] * (len(rows) // 3), path)
