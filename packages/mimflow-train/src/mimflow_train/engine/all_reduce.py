"""Means over the workers of what each has computed for its share of a batch."""

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["average_gradients", "mean_over_workers"]

_BUCKET = 2**24  # numbers of one message


def average_gradients(weights: Iterable[nn.Parameter], world_size: int) -> None:
    """Average gradients over the workers, in place; weights without one are passed over.

    Args:
        weights: The same on every worker, in the same order.
        world_size: Number of workers.
    """
    gradients = [each.grad for each in weights if each.grad is not None]
    for bucket in _buckets(gradients) if world_size > 1 else ():
        message = torch.cat([each.flatten() for each in bucket])
        dist.all_reduce(message)
        message /= world_size
        parts = message.split([each.numel() for each in bucket])
        together = zip(bucket, parts, strict=True)
        torch._foreach_copy_(bucket, [part.view_as(each) for each, part in together])


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield tensors in groups that are sent together, in their order."""
    bucket: list[Tensor] = []
    for each in tensors:
        if bucket and sum(other.numel() for other in bucket) + each.numel() > _BUCKET:
            yield bucket
            bucket = []
        bucket.append(each)
    if bucket:
        yield bucket


def mean_over_workers(values: Sequence[Tensor], world_size: int) -> list[Tensor]:
    """Return the mean of each value.

    Args:
        values: This worker's.
        world_size: Number of workers.
    """
    # NCCL takes no strides.
    means = [value.clone(memory_format=torch.contiguous_format) for value in values]
    for mean in means if world_size > 1 else ():
        dist.all_reduce(mean)
        mean /= world_size
    return means
