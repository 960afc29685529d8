"""The conditional Gaussians that a block predicts, and the two rules that guide them."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tarflow_prior.guidance import Rule


class Affine(NamedTuple):
    """Conditional mean and log standard deviation of token entries."""

    shift: Float[Tensor, "b t d"]
    log_scale: Float[Tensor, "b t d"]

    def to_noise(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Standardise tokens: ``(tokens - shift) exp(-log_scale)``."""
        return (tokens - self.shift) * torch.exp(-self.log_scale)

    def to_tokens(self, noise: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Undo :meth:`to_noise`: ``noise exp(log_scale) + shift``."""
        return noise * self.log_scale.exp() + self.shift


def branches(affine: Affine) -> tuple[Affine, Affine]:
    """Split the rows of a guided pass into the class branch and the null branch.

    Args:
        affine: What both predict, the class branch first.
    """
    (shift, null_shift), (log_scale, null_log_scale) = (part.chunk(2) for part in affine)
    return Affine(shift, log_scale), Affine(null_shift, null_log_scale)


def guide(rule: Rule, conditional: Affine, null: Affine, weight: Float[Tensor, "t 1"]) -> Affine:
    """Move the conditional Gaussian away from that of the null class.

    Args:
        rule: The rule, see :class:`~tarflow_prior.Guidance`.
        conditional: Gaussian given the class.
        null: Gaussian given the null class.
        weight: Weight w of the guidance of each token, at least 0.

    Returns:
        The guided Gaussian; ``conditional`` itself where the weight is 0.

    Example:
        >>> one, zero = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
        >>> weight = torch.tensor([[1.0]])
        >>> guided = guide("tarflow", Affine(one, zero), Affine(zero, zero), weight)
        >>> guided.shift.item(), guided.log_scale.item()
        (2.0, 0.0)
    """
    guided = (_tarflow if rule == "tarflow" else _starflow)(conditional, null, weight)
    # A null branch that has overflowed must not reach a token that is not guided.
    return Affine(
        *(torch.where(weight == 0, c, g) for c, g in zip(conditional, guided, strict=True))
    )


def _tarflow(conditional: Affine, null: Affine, weight: Tensor) -> Affine:
    """Extrapolate linearly, the deviation in its logarithm: it stays positive."""
    return Affine(*(c + weight * (c - u) for c, u in zip(conditional, null, strict=True)))


def _starflow(conditional: Affine, null: Affine, weight: Tensor) -> Affine:
    """Take the product ``p_c^(1+w) / p_u^w``, the variance ratio s clipped to 1."""
    log_ratio = (2 * (conditional.log_scale - null.log_scale)).clamp(max=0)
    precision_gain = 1 - weight * torch.expm1(log_ratio)  # 1 + w - w s, at least 1
    pull = conditional.shift - log_ratio.exp() * null.shift
    return Affine(
        shift=(conditional.shift + weight * pull) / precision_gain,
        log_scale=conditional.log_scale - 0.5 * precision_gain.log(),
    )
