"""A flow from inside: likelihood, base noise, and what every block and token adds.

NLLs are per latent dimension, in nats and without ``ln(2 pi) / 2``.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int64
from torch import Tensor

from mimflow_train.evaluation.selection import CHUNK
from tarflow_prior import Block, TarFlow

__all__ = [
    "BaseNoise",
    "FlowByDepth",
    "Likelihood",
    "Passage",
    "base_noise",
    "by_depth",
    "correlation",
    "inversion_error",
    "likelihood",
    "pass_through",
]

_EDGES = torch.linspace(-4, 4, 65, dtype=torch.float64)


class Passage(NamedTuple):
    """Latents on their way through the flow, on the CPU.

    Attributes:
        states: Tokens before the first block and after each.
        log_scales: Log-scale of each entry in each block.
    """

    states: Float[Tensor, "taps b k d"]
    log_scales: Float[Tensor, "blocks b k d"]


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """NLL of one set of latents.

    Attributes:
        mean: Over the images.
        standard_error: Of the mean; None for one latent.
        n: Images.
    """

    mean: float
    standard_error: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class BaseNoise:
    """How near the flow brings latents to standard normal noise ``u``.

    Attributes:
        n: Images.
        mean_by_token: Mean of ``u`` over images and dimensions; 0 is perfect.
        std_by_token: Its standard deviation; 1 is perfect.
        mean_by_dim: Mean of ``u`` over images and tokens.
        std_by_dim: Its standard deviation.
        ks: Kolmogorov-Smirnov distance of all entries from N(0, 1).
        correlation: Mean absolute correlation of two dimensions, over images and tokens.
        edges: Limits of the histogram's bins.
        density: Density of the entries in each bin; what lies outside is in the total.
    """

    n: int
    mean_by_token: tuple[float, ...]
    std_by_token: tuple[float, ...]
    mean_by_dim: tuple[float, ...]
    std_by_dim: tuple[float, ...]
    ks: float
    correlation: float
    edges: tuple[float, ...]
    density: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class FlowByDepth:
    """Where in the flow the likelihood is made.

    Attributes:
        n: Images.
        nll: NLL if the flow ended after 0, 1, ... blocks; the last is the flow's own.
        log_scale: Mean log-scale of each block, its own share of the NLL.
        nll_by_token: Half the mean square of ``u`` plus the log-scales of all blocks at each token;
            the mean over the tokens is the NLL.
    """

    n: int
    nll: tuple[float, ...]
    log_scale: tuple[float, ...]
    nll_by_token: tuple[float, ...]


@torch.no_grad()
def pass_through(flow: TarFlow, z: Float[Tensor, "b k d"], label: Int64[Tensor, " b"]) -> Passage:
    """Send latents through the flow and keep what every block makes of them.

    Args:
        flow: The flow.
        z: Latents, at least one.
        label: Their classes, -1 for the null class.
    """
    parts = []
    for rows, classes in zip(z.split(CHUNK), label.to(z.device).split(CHUNK), strict=True):
        states, log_scales = [rows], []
        for block in flow.blocks:
            u, log_scale = cast(Block, block).standardize(states[-1], classes)
            states.append(u)
            log_scales.append(log_scale)
        parts.append((torch.stack(states).cpu(), torch.stack(log_scales).cpu()))
    return Passage(*(torch.cat(each, dim=1) for each in zip(*parts, strict=True)))


@torch.no_grad()
def inversion_error(flow: TarFlow, z: Float[Tensor, "b k d"]) -> float:
    """Return the largest ``|inverse(forward(z)) - z|`` of an entry, without a class.

    Args:
        flow: The flow.
        z: Latents, at least one.
    """
    parts = [(flow.inverse(flow(part).u) - part).abs().max() for part in z.split(4 * CHUNK)]
    return float(torch.stack(parts).max())


def likelihood(passage: Passage) -> Likelihood:
    """Return the NLL of latents: half the mean square of ``u``, plus the mean log-scale."""
    log_scale = reduce(passage.log_scales.double(), "blocks b k d -> b", "sum")
    square = reduce(passage.states[-1].double().square(), "b k d -> b", "sum")
    values = (0.5 * square + log_scale) / passage.states[0, 0].numel()
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
    return Likelihood(mean=values.mean().item(), standard_error=error, n=len(values))


def base_noise(u: Float[Tensor, "b k d"]) -> BaseNoise:
    """Compare what the flow made of latents with standard normal noise.

    Args:
        u: The flow's output, on the CPU.
    """
    u = u.double()
    counts = torch.histogram(u.flatten(), _EDGES).hist
    return BaseNoise(
        n=len(u),
        mean_by_token=tuple(u.mean((0, 2)).tolist()),
        std_by_token=tuple(u.std((0, 2), correction=0).tolist()),
        mean_by_dim=tuple(u.mean((0, 1)).tolist()),
        std_by_dim=tuple(u.std((0, 1), correction=0).tolist()),
        ks=_distance_from_normal(u.flatten()),
        correlation=correlation(u),
        edges=tuple(_EDGES.tolist()),
        density=tuple((counts / u.numel() / (_EDGES[1] - _EDGES[0])).tolist()),
    )


def by_depth(passage: Passage) -> FlowByDepth:
    """Take the NLL apart, into blocks and into tokens."""
    log_scales = passage.log_scales.double()
    squares = 0.5 * passage.states.double().square()
    log_scale = reduce(log_scales, "blocks b k d -> blocks", "mean")
    so_far = torch.cat([log_scale.new_zeros(1), log_scale.cumsum(0)])
    by_token = reduce(squares[-1], "b k d -> k", "mean")
    by_token += reduce(log_scales.sum(0), "b k d -> k", "mean")
    return FlowByDepth(
        n=squares.shape[1],
        nll=tuple((reduce(squares, "taps b k d -> taps", "mean") + so_far).tolist()),
        log_scale=tuple(log_scale.tolist()),
        nll_by_token=tuple(by_token.tolist()),
    )


def correlation(tokens: Float[Tensor, "b k d"]) -> float:
    """Return the mean absolute correlation of two dimensions, over images and tokens.

    A dimension that does not vary is correlated with none.

    Args:
        tokens: Latents, or what the flow makes of them.
    """
    rows = rearrange(tokens.double(), "b k d -> (b k) d")
    rows = rows - rows.mean(0)
    rows = rows / rows.square().mean(0).sqrt().clamp(min=1e-12)
    num_dims = rows.shape[1]
    matrix = (rows.T @ rows / len(rows)).abs().fill_diagonal_(0)
    return matrix.sum().item() / max(1, num_dims * (num_dims - 1))


def _distance_from_normal(values: Float[Tensor, " n"]) -> float:
    """Return the Kolmogorov-Smirnov distance, ``sup |F_n - Phi|``."""
    expected = torch.special.ndtr(values.sort().values)
    steps = torch.arange(len(values) + 1, dtype=torch.float64) / len(values)
    return torch.maximum(steps[1:] - expected, expected - steps[:-1]).max().item()
