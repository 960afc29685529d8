"""Samples of a run, drawn as it says: its guidance, bytes on the CPU."""

from collections.abc import Iterator

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from mimflow_train.config import TrainConfig
from mimflow_train.evaluation.pictures import to_bytes
from mimflow_train.evaluation.selection import CHUNK
from mimflow_train.model import MIMFlow
from tarflow_prior import Guidance

__all__ = ["generate"]


@torch.no_grad()
def generate(
    model: MIMFlow,
    config: TrainConfig,
    label: Int64[Tensor, " b"],
    draw: torch.Generator,
    *,
    temperature: float = 1.0,
) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
    """Draw images of the given classes with the run's own guidance; yield bytes on the CPU.

    Args:
        model: Usually the averaged weights.
        config: The run.
        label: Class of each image.
        draw: Source of the base noise, on the CPU.
        temperature: Standard deviation of the base noise.
    """
    device = next(model.parameters()).device
    guidance = Guidance(scale=config.guidance) if config.guidance > 0 else None
    for part in label.split(4 * CHUNK):
        images = model.generate(
            part.to(device), guidance=guidance, temperature=temperature, generator=draw
        )
        yield to_bytes(images).cpu()
