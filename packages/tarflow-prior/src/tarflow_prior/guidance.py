"""The two rules of classifier-free guidance, as functions of conditional Gaussians."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow_prior.config import Guidance


class Affine(NamedTuple):
    """Conditional mean and log standard deviation of token entries."""

    shift: Float[Tensor, "b t d"]
    log_scale: Float[Tensor, "b t d"]


def guide(guidance: Guidance, conditional: Affine, null: Affine, fraction: float) -> Affine:
    """Move the conditional Gaussian away from that of the null class.

    Args:
        guidance: Rule, ramp, interval and scale; its strength w at ``fraction`` applies.
        conditional: Gaussian given the class.
        null: Gaussian given the null class.
        fraction: Decoding rank ``t / (k - 1)`` of the token, in 0..1.

    Returns:
        The guided Gaussian; ``conditional`` itself where the strength is 0.

    Example:
        >>> one, zero = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
        >>> guided = guide(Guidance(2.0), Affine(one, zero), Affine(zero, zero), fraction=0.5)
        >>> guided.shift.item(), guided.log_scale.item()
        (2.0, 0.0)
    """
    weight = guidance.strength(fraction)
    if weight == 0:
        return conditional
    rule = _tarflow if guidance.rule == "tarflow" else _starflow
    return rule(conditional, null, weight)


def _tarflow(conditional: Affine, null: Affine, weight: float) -> Affine:
    """Extrapolate linearly, the deviation in its logarithm: it stays positive."""
    return Affine(*(c + weight * (c - u) for c, u in zip(conditional, null, strict=True)))


def _starflow(conditional: Affine, null: Affine, weight: float) -> Affine:
    """Take the product ``p_c^(1+w) / p_u^w``, the variance ratio s clipped to 1."""
    log_ratio = (2 * (conditional.log_scale - null.log_scale)).clamp(max=0)
    precision_gain = 1 - weight * torch.expm1(log_ratio)  # 1 + w - w s, at least 1
    pull = conditional.shift - log_ratio.exp() * null.shift
    return Affine(
        shift=(conditional.shift + weight * pull) / precision_gain,
        log_scale=conditional.log_scale - 0.5 * precision_gain.log(),
    )
