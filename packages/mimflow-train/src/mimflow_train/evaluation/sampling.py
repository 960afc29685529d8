"""Samples of a model, as bytes on the CPU."""

from collections.abc import Iterator

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from mimflow_train.evaluation.reconstruction import decoded
from mimflow_train.evaluation.selection import CHUNK
from mimflow_train.model import MIMFlow
from tarflow_prior import Guidance

__all__ = ["generate"]


@torch.no_grad()
def generate(
    model: MIMFlow,
    label: Int64[Tensor, " b"],
    draw: torch.Generator,
    *,
    guidance: Guidance | None,
    temperature: float = 1.0,
) -> Iterator[UInt8[Tensor, "b 3 h w"]]:
    """Yield images of the given classes in batches, as bytes on the CPU.

    Args:
        model: Usually the averaged weights.
        label: Class of each image.
        draw: Source of the base noise, on the CPU.
        guidance: How to lean towards the class; None for plain samples.
        temperature: Standard deviation of the base noise.
    """
    device = next(model.parameters()).device
    for part in label.split(4 * CHUNK):
        z = model.flow.sample(
            part.to(device), guidance=guidance, temperature=temperature, generator=draw
        )
        yield from decoded(model, z)
