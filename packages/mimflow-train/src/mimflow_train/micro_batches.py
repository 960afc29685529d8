"""A worker's share of a batch, in parts that fit the device, and how their terms add up."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mimflow_train.config import TrainConfig
from mimflow_train.draws import Draws
from mimflow_train.errors import ConfigError
from mimflow_train.objective import Objective

__all__ = [
    "Batch",
    "MicroBatch",
    "add_terms",
    "attention_kernel",
    "is_bf16",
    "micro_batches",
    "precision",
]


class Batch(NamedTuple):
    """A worker's images, their labels, and their places in the training set."""

    image: Tensor
    label: Tensor
    indices: Tensor


class MicroBatch(NamedTuple):
    """A micro-batch on the device with its draws, and how many there are."""

    image: Tensor
    label: Tensor
    indices: Tensor
    draws: Draws
    number: int
    num_parts: int

    @property
    def is_first(self) -> bool:
        """Whether no other part comes before."""
        return self.number == 0

    @property
    def is_last(self) -> bool:
        """Whether no other part comes after."""
        return self.number == self.num_parts - 1


def micro_batches(
    device: torch.device, config: TrainConfig, batch: Batch, draws: Draws
) -> Iterator[MicroBatch]:
    """Yield a worker's batch in parts of ``config.micro_batch`` images.

    Raises:
        ConfigError: If they do not divide the batch.
    """
    size = config.micro_batch or len(batch.image)
    if len(batch.image) % size:
        raise ConfigError(
            f"Expected micro_batch to divide a worker's {len(batch.image)} images; got {size}. "
            "Choose a divisor."
        )
    count = len(batch.image) // size
    for number in range(count):
        rows = slice(number * size, (number + 1) * size)
        yield MicroBatch(
            batch.image[rows].to(device),
            batch.label[rows].to(device),
            batch.indices[rows],
            Draws(*(each[rows].to(device) for each in draws)),
            number,
            count,
        )


def add_terms(sums: dict[str, Tensor], objective: Objective, num_parts: int) -> None:
    """Add a part's terms and total to the batch's means."""
    for name, value in {**objective.terms, "loss": objective.total}.items():
        sums[name] = sums.get(name, torch.zeros(())) + value.detach() / num_parts


@contextlib.contextmanager
def precision(device: torch.device, wanted: str) -> Iterator[None]:
    """Run matrix products in bf16 if asked to, or on ``auto`` if the device is fast at it."""
    with attention_kernel(device, wanted):
        if not is_bf16(device, wanted):
            yield
            return
        with torch.autocast(device.type, torch.bfloat16):
            yield


def attention_kernel(device: torch.device, wanted: str) -> contextlib.AbstractContextManager[None]:
    """Return the context in which attention is fast on a device, in the precision wanted.

    The fused kernel's bf16 backward is slow on CPUs: benchmarks/cpu_training_step.md.
    """
    if device.type == "cpu" and is_bf16(device, wanted):
        return sdpa_kernel(SDPBackend.MATH)
    return contextlib.nullcontext()


def is_bf16(device: torch.device, wanted: str) -> bool:
    """Return whether matrix products are in bf16: if asked for, or on ``auto`` if that is fast."""
    if wanted == "auto":
        if device.type == "cpu":
            return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        with torch.cuda.device(device):  # older cards emulate it, slower than float32
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return wanted == "bf16"
