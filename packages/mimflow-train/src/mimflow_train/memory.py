"""What a step keeps in memory, and how many images of it fit a device."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from mimflow_train.errors import ConfigError
from mimflow_train.micro_batches import attention_kernel
from mimflow_train.model import MIMFlow

__all__ = ["agree", "largest_micro_batch", "recompute_layers"]


def largest_micro_batch(share: int, attempt: Callable[[int], object]) -> int:
    """Return the largest divisor of a worker's share with which a pass fits the memory.

    Args:
        share: Images of a worker in a step.
        attempt: Runs a forward and a backward pass of so many images.

    Raises:
        ConfigError: If not even one image fits.

    Example:
        >>> largest_micro_batch(12, lambda size: None)
        12
    """
    for size in (each for each in range(share, 0, -1) if share % each == 0):
        try:
            attempt(size)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            continue
        return size
    raise ConfigError(
        "Expected one image to fit the device's memory; it does not. "
        "Give --set recompute=True, or a smaller --scale."
    )


def agree(size: int, world_size: int, device: torch.device) -> int:
    """Return the smallest of all workers' micro-batches."""
    if world_size == 1:
        return size
    smallest = torch.tensor(size, device=device)
    dist.all_reduce(smallest, dist.ReduceOp.MIN)
    return int(smallest)


def recompute_layers(model: MIMFlow, device: torch.device, precision: str) -> None:
    """Keep only the input of each transformer layer; the backward pass computes the rest again.

    Args:
        model: Changed in place; names of weights stay.
        device: Where it computes.
        precision: As configured; the second pass must use the kernels of the first.
    """

    def contexts() -> tuple[object, object]:
        return attention_kernel(device, precision), attention_kernel(device, precision)

    for layer in _layers(model):
        layer.forward = partial(
            checkpoint,
            layer.forward,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=contexts,
        )


def _layers(model: MIMFlow) -> Iterator[nn.Module]:
    flow = [block.layers for block in model.flow.blocks]
    for group in (model.encoder.trunk.blocks, model.decoder.to_tokens.trunk.blocks, *flow):
        yield from cast(nn.ModuleList, group)
