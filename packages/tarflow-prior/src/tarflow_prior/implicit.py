"""Gradients through the inverse, by the implicit function theorem.

With ``z = f^-1(u; theta)`` and a gradient v in z, the gradient in u is ``w = J^-T v``, J the
Jacobian of f at z, and the gradient in theta is ``-(df/dtheta)^T w``. J of one block is its
diagonal ``exp(-log_scale)`` plus a strictly triangular part, so the sweep ``w <- w +
exp(log_scale) (v - J^T w)`` is exact after k - 1 passes backward, and mostly much sooner. Nothing
of the decoding is kept: memory is that of one parallel pass, whatever solver found z.
"""

from collections.abc import Iterable
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tarflow_prior.block import Block
from tarflow_prior.decoding import Decoder


def reparameterized_inverse(
    blocks: Iterable[nn.Module], u: Float[Tensor, "b k d"], label: Int[Tensor, " b"] | None
) -> Float[Tensor, "b k d"]:
    """Map noise to data with gradients in the noise and in the weights (first order).

    Args:
        blocks: The blocks of the flow, in forward order.
        u: Noise, in the dtype of the weights.
        label: Class of each sample; -1 or None is the null class.
    """
    for block in reversed(cast(list[Block], list(blocks))):
        u = _invert(block, u, label)
    return u


def _invert(block: Block, u: Tensor, label: Tensor | None) -> Tensor:
    if not len(u):  # nothing to invert; zero gradients, as of any sum over no samples
        return block.standardize(u, label)[0]
    solution = Decoder([block], len(u)).decode(u.detach(), label)[0]
    learns = u.requires_grad or any(weight.requires_grad for weight in block.parameters())
    if not (learns and torch.is_grad_enabled()):
        return solution
    point = solution.requires_grad_()
    encoded, log_scale = block.standardize(point, label)
    implicit = u - encoded  # rounding in value; its gradient is du - (df/dtheta) dtheta
    z = point.detach() + (implicit - implicit.detach())
    scale = log_scale.detach().exp()

    def solve(gradient: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "Expected a first derivative of rsample; got create_graph=True. "
                "Differentiate log_prob for higher orders, under sdpa_kernel(SDPBackend.MATH)."
            )
        w = scale * gradient
        eps = 4 * torch.finfo(w.dtype).eps
        for _ in range(block.config.num_tokens - 1):
            (pulled,) = torch.autograd.grad(encoded, point, w, retain_graph=True)
            gap = gradient - pulled
            if not (gap.abs() > eps * gradient.abs().max()).any():
                break
            w = w + scale * gap
        return w

    z.register_hook(solve)
    return z
