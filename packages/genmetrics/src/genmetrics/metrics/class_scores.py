"""The Inception Score, whatever the order of the images.

    IS = exp E_x KL(p(y | x) || p(y))

ADM's evaluator takes consecutive chunks of the file, so samples sorted by class score a quarter of
what they should: each chunk has few classes. Here they are shuffled first, with a seed, and the
value in file order stands beside.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean, pstdev

import torch
from jaxtyping import Float64
from torch import Tensor

from genmetrics.checks import Rows, as_features, require_finite
from genmetrics.errors import BadInput, UsageError

_ORDER_TOLERANCE = 0.05
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class ISResult:
    """An Inception Score with the choices it depends on. All scores lie in [1, classes].

    Args:
        mean: The score: mean over the chunks of the shuffled samples.
        std: Population standard deviation over these chunks; None if there is one only.
        se: Standard error of ``mean`` over new samples, by the delta method: to first order a
            sample moves the logarithm of the score by its ``KL(p(y|x) || p(y))`` less the mean.
        n: Samples.
        chunk: Samples in each chunk; the last may have fewer, or one more, and counts the same.
        num_chunks: Chunks.
        file_order_mean: Mean over chunks without the shuffle, as ADM's evaluator computes it.
        single_split: Score of all samples as one chunk.
        order_matters: Whether ``file_order_mean`` is more than 5 % off ``mean``: the samples look
            sorted by class, and ADM's evaluator would misjudge them.
    """

    mean: float
    std: float | None
    se: float
    n: int
    chunk: int
    num_chunks: int
    file_order_mean: float
    single_split: float
    order_matters: bool


def inception_score(logits: Rows, *, chunk: int = 5000, shuffle_seed: int = 0) -> ISResult:
    """Compute the Inception Score of shuffled samples in chunks, as ADM does it in file order.

    Args:
        logits: Class scores before the softmax; for parity with ADM, those of the 2015 Inception
            graph, which have no bias.
        chunk: Samples in each chunk, at least 2. It changes the score: compare equal chunks only.
            A last chunk of one sample, which would score 1 whatever it shows, joins the one before;
            at all other counts the chunks are ADM's.
        shuffle_seed: Seed of the shuffle.

    Raises:
        UsageError: If ``chunk`` is below 2.
        BadInput: If there are fewer than 2 samples.
        NumericalFailure: If a score is not finite.

    Example:
        >>> sure = 100 * torch.eye(5).repeat(8, 1)
        >>> round(inception_score(sure).mean, 9), round(inception_score(sure * 0).mean, 9)
        (5.0, 1.0)
    """
    logits = as_features(logits, "logits")
    n = len(logits)
    if chunk < 2:
        raise UsageError(f"Expected chunk of at least 2; got {chunk}. Try 5000, as ADM.")
    if n < 2:
        raise BadInput(f"Expected at least 2 samples; got {n}. Add images.")
    require_finite(logits, "logits")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(shuffle_seed))
    shuffled = [_score(*sums) for sums in _chunk_sums(logits, order, chunk)]
    in_file_order = list(_chunk_sums(logits, torch.arange(n), chunk))
    file_order_mean = fmean(_score(*sums) for sums in in_file_order)
    mean = fmean(shuffled)
    single_split = _score(*(sum(parts) for parts in zip(*in_file_order, strict=True)))
    marginal = torch.stack([sums[0] for sums in in_file_order]).sum(dim=0) / n
    return ISResult(
        mean=mean,
        std=pstdev(shuffled) if len(shuffled) > 1 else None,
        se=mean * _gains(logits, marginal).std().item() / math.sqrt(n),
        n=n,
        chunk=chunk,
        num_chunks=len(shuffled),
        file_order_mean=file_order_mean,
        single_split=single_split,
        order_matters=abs(file_order_mean - mean) > _ORDER_TOLERANCE * mean,
    )


def _chunk_sums(
    logits: Tensor, order: Tensor, chunk: int
) -> Iterator[tuple[Float64[Tensor, " c"], Float64[Tensor, ""], int]]:
    """Yield the sums over each chunk of ``p`` and of ``sum_y p log p``, and its size."""
    chunks = list(order.split(chunk))
    if len(chunks) > 1 and len(chunks[-1]) == 1:
        chunks[-2:] = [torch.cat(chunks[-2:])]
    for rows in chunks:
        log_prob = logits[rows.to(logits.device)].to("cpu", torch.float64).log_softmax(dim=1)
        prob = log_prob.exp()
        yield prob.sum(dim=0), (prob * log_prob).sum(), len(rows)


def _gains(logits: Tensor, marginal: Float64[Tensor, " c"]) -> Float64[Tensor, " n"]:
    """Return ``KL(p(y|x) || p(y))`` of each sample."""
    log_marginal = marginal.clamp(min=torch.finfo(torch.float64).tiny).log()
    parts = []
    for rows in logits.split(_ROWS_AT_ONCE):
        log_prob = rows.to("cpu", torch.float64).log_softmax(dim=1)
        parts.append((log_prob.exp() * (log_prob - log_marginal)).sum(dim=1))
    return torch.cat(parts)


def _score(prob_sum: Tensor, negentropy_sum: Tensor, n: int) -> float:
    marginal = prob_sum / n
    information = negentropy_sum / n - torch.xlogy(marginal, marginal).sum()
    return math.exp(max(information.item(), 0.0))
