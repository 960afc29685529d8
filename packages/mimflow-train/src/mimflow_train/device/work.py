"""The work of a network, counted and not measured: on the meta device it needs no weights."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Work", "forward_work"]


class Work(NamedTuple):
    """A network's size, and one call of it.

    Attributes:
        parameters: Numbers that it has.
        gmac: 10^9 multiply-adds of its matrix products and convolutions.
    """

    parameters: int
    gmac: float


def forward_work(module: nn.Module, *values: Tensor | None) -> Work:
    """Count one call of a network.

    Args:
        module: The network.
        *values: What it is called with.

    Example:
        >>> import torch
        >>> forward_work(nn.Linear(3, 5, bias=False), torch.zeros(2, 3))
        Work(parameters=15, gmac=3e-08)
    """
    with FlopCounterMode(display=False) as counter:
        module(*values)
    parameters = sum(each.numel() for each in module.parameters())
    return Work(parameters, counter.get_total_flops() / 2e9)
