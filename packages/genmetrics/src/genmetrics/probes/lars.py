"""LARS (You, Gitman and Ginsburg, 2017): momentum SGD with a step in proportion to each tensor.

g <- g + weight_decay p,  g <- trust |p| / |g| g      for matrices, and g <- g for vectors
m <- momentum m + g,      p <- p - lr m
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from genmetrics.errors import UsageError


class LARS(Optimizer):
    """The optimiser of MAE's linear probe; tensors of one dimension get no decay and no scaling.

    Args:
        params: Tensors to fit.
        lr: Step size, at least 0.
        weight_decay: Pull towards zero, at least 0.
        momentum: Share of the last step that is kept, in [0, 1).
        trust: Length of a scaled gradient over the length of its tensor, above 0.

    Raises:
        UsageError: If a number is out of its range.

    Example:
        >>> p = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
        >>> p.grad = torch.tensor([[0.0, 2.0]])
        >>> LARS([p], lr=1.0, trust=0.1).step()  # the gradient is scaled to a tenth of |p| = 5
        >>> p.data
        tensor([[3.0000, 3.5000]])
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust: float = 0.001,
    ) -> None:
        if min(lr, weight_decay, momentum) < 0 or momentum >= 1 or trust <= 0:
            raise UsageError(
                "Expected lr and weight_decay of at least 0, momentum in [0, 1) and trust above 0; "
                f"got {lr}, {weight_decay}, {momentum} and {trust}."
            )
        defaults: dict[str, Any] = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "trust": trust,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # takes no closure
        """Move every tensor that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = p.grad
                if p.ndim > 1:
                    g = _scaled(g + group["weight_decay"] * p, p, group["trust"])
                m = self.state[p].setdefault("momentum", torch.zeros_like(p))
                m.mul_(group["momentum"]).add_(g)
                p.sub_(group["lr"] * m)


def _scaled(g: Tensor, p: Tensor, trust: float) -> Tensor:
    """Give a gradient ``trust`` times the length of its tensor, unless one of them is zero."""
    length, tensor_length = g.norm(), p.norm()
    both = (length > 0) & (tensor_length > 0)
    return g * torch.where(both, trust * tensor_length / length, 1.0)
