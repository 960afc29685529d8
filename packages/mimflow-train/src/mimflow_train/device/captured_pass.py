"""A forward and a backward pass as one CUDA graph: the GPU no longer waits for launches."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from mimflow_train.draws import Draws
from mimflow_train.micro_batches import MicroBatch
from mimflow_train.objective import Objective

__all__ = ["CapturedPass"]

_WARM_UP = 3  # passes in which kernels are compiled, chosen and given their workspaces


class CapturedPass:
    """A pass over a micro-batch whose kernels are recorded once, then replayed on other numbers.

    What a replay computes is what the pass computes: same kernels, same order. Its memory is held
    for as long as this object lives.

    Args:
        work: Adds the gradients of a micro-batch and returns its objective. It must not wait for
            the GPU, draw random numbers, or look at anything but the tensors of its argument and
            the weights.
        weights: What gradients are added to; none of them has a gradient now.
        part: A micro-batch on the GPU. All others must have its shape and its ``num_parts``.
    """

    def __init__(
        self,
        work: Callable[[MicroBatch], Objective],
        weights: Iterable[nn.Parameter],
        part: MicroBatch,
    ) -> None:
        self.weights = list(weights)
        self.part = part._replace(
            image=part.image.clone(),
            label=part.label.clone(),
            indices=part.indices.clone(),
            draws=Draws(*(each.clone() for each in part.draws)),
        )
        aside = torch.cuda.Stream()  # capture asks for a stream that is not the default one
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                work(self.part)
                self._drop_gradients()
        torch.cuda.current_stream().wait_stream(aside)
        torch.cuda.empty_cache()  # else the memory of those passes stays beside the graph's own
        self.graph = torch.cuda.CUDAGraph()
        # Only this thread is watched: the next batch may be on its way to the GPU in another.
        with torch.cuda.graph(self.graph, stream=aside, capture_error_mode="thread_local"):
            self.objective = work(self.part)
        self.gradients = {each: each.grad for each in self.weights if each.grad is not None}
        self._drop_gradients()

    def __call__(self, part: MicroBatch) -> Objective:
        """Add the gradients of a micro-batch; return its objective, good until the next call."""
        earlier = {each: each.grad.clone() for each in self.gradients if each.grad is not None}
        for ours, new in zip(_tensors(self.part), _tensors(part), strict=True):
            ours.copy_(new)
        self.graph.replay()
        for weight, gradient in self.gradients.items():
            weight.grad = gradient
        if earlier:
            torch._foreach_add_([self.gradients[each] for each in earlier], list(earlier.values()))
        return self.objective

    def _drop_gradients(self) -> None:
        for each in self.weights:
            each.grad = None


def _tensors(part: MicroBatch) -> tuple[Tensor, ...]:
    return part.image, part.label, part.indices, *part.draws
