"""What a step keeps in memory, and how many images of it fit a device."""

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mimflow_train.config import TrainConfig
from mimflow_train.draws import Draws, draw_step
from mimflow_train.engine.context import Context
from mimflow_train.errors import ConfigError
from mimflow_train.micro_batches import Batch, attention_kernel
from mimflow_train.model import MIMFlow, transformer_layers

__all__ = [
    "blank_batch",
    "fit_micro_batch",
    "kept_bytes",
    "largest_fitting",
    "room_for_moments",
    "set_computation",
]

_SEARCHED = 0.9  # of the memory, when micro-batches are tried out
_SHAPES = 64  # most that a function is compiled for, over both phases


def largest_fitting(share: int, attempt: Callable[[int], object]) -> int:
    """Return the largest divisor of a worker's share with which a pass fits the memory.

    Args:
        share: Images of a worker in a step.
        attempt: Runs a forward and a backward pass of so many images.

    Returns:
        0 if not even one image fits.

    Example:
        >>> largest_fitting(12, lambda size: None)
        12
    """
    divisors = (each for each in range(share, 0, -1) if share % each == 0)
    return next((size for size in divisors if _fits(attempt, size)), 0)


def _fits(attempt: Callable[[int], object], size: int) -> bool:
    """Try a size out, and give back what it took: outside the handler, whose traceback holds it."""
    try:
        attempt(size)
        fits = True
    except torch.OutOfMemoryError:
        fits = False
    gc.collect()
    torch.cuda.empty_cache()
    return fits


def fit_micro_batch(
    config: TrainConfig,
    context: Context,
    attempt: Callable[[Batch, Draws], object],
    model: MIMFlow,
) -> TrainConfig:
    """Return the configuration with the micro-batch that fits, where it is left to the GPU.

    Nothing is compiled for it: every size tried would be compiled anew, and after a few of them
    torch gives up.

    Args:
        config: The run.
        context: This worker among its peers; all of them take the smallest that any has found.
        attempt: Runs a forward and a backward pass of which nothing stays.
        model: What it runs; :func:`set_computation` is to be called afterwards.

    Raises:
        ConfigError: If not even one image fits.
    """
    if config.micro_batch or context.device.type != "cuda":
        return config
    set_computation(model, replace(config, compile=False), context.device)
    share = config.global_batch // context.world_size

    def attempt_as_in_a_step(size: int) -> None:
        # There from the first layer: gradients of earlier micro-batches, or DDP's buckets.
        # Workers without DDP, as in the decoder phase, are taken to have these too.
        with _gradients_held(model, wanted=context.world_size > 1 or size < share):
            attempt(*blank_batch(config, size))

    with _headroom(), torch.compiler.set_stance("force_eager"):  # frozen networks compile parts
        size = largest_fitting(share, attempt_as_in_a_step)
    if context.world_size > 1:  # all of them ask, whatever they have found
        smallest = torch.tensor(size, device=context.device)
        dist.all_reduce(smallest, dist.ReduceOp.MIN)
        size = int(smallest)
    if not size:
        raise ConfigError(
            "Expected one image to fit the device's memory; it does not. "
            "Give --set recompute=True, or a smaller --scale."
        )
    return replace(config, micro_batch=size)


@contextmanager
def _headroom() -> Iterator[None]:
    """Leave a tenth of the GPU's memory to what a run has besides: fragments, kernels, samples."""
    if not torch.cuda.is_initialized():
        yield
        return
    torch.cuda.set_per_process_memory_fraction(_SEARCHED)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.reset_peak_memory_stats()


@contextmanager
def _gradients_held(model: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Let all weights that learn have a gradient in a block, if that is wanted; none after it."""
    learning = [each for each in model.parameters() if each.requires_grad]
    try:
        if wanted:
            for each in learning:
                each.grad = torch.zeros_like(each)
        yield
    finally:
        for each in learning:
            each.grad = None


@contextmanager
def room_for_moments(*optimizers: torch.optim.Optimizer) -> Iterator[None]:
    """Take, during a block, the memory that AdamW takes at its first step; later it has it.

    Args:
        optimizers: Whose weights learn in the block.
    """
    groups = [group for each in optimizers if not each.state for group in each.param_groups]
    learning = [each for group in groups for each in group["params"] if each.requires_grad]
    moments = [torch.empty_like(each) for each in learning for _ in range(2)]
    try:
        yield
    finally:
        moments.clear()


def blank_batch(config: TrainConfig, size: int) -> tuple[Batch, Draws]:
    """Return a batch of grey images with draws, to try a pass out with; always the same.

    Args:
        config: The run.
        size: Images.
    """
    side = config.model.encoder.image_size
    none = torch.zeros(size, dtype=torch.int64)
    batch = Batch(torch.zeros(size, 3, side, side), none, none)
    return batch, draw_step(replace(config, global_batch=size), 0, slice(0, size))


def kept_bytes(weights: Iterable[Tensor], work: Callable[[], object]) -> int:
    """Return the bytes that autograd keeps for the backward pass of some work, weights apart.

    Args:
        weights: What is there anyway.
        work: A forward pass; what follows it keeps nothing more.
    """
    storages = {each.untyped_storage()._cdata for each in weights}
    kept: dict[int, Tensor] = {}  # holds the tensors, so that no address comes twice

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in storages:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def set_computation(model: nn.Module, config: TrainConfig, device: torch.device) -> None:
    """Compile and recompute transformer layers, in place, as far as the configuration asks for it.

    Only layers are compiled: those of a kind and a size share their kernels, so that fifty of them
    start in the time of a few. Where a layer is recomputed, the backward pass has kept its input
    alone.

    Args:
        model: MIMFlow or a part of it. Changed in place; names of weights stay, and a copy is
            changed as well.
        config: The run.
        device: Where it computes.
    """
    layers = transformer_layers(model)

    def contexts() -> tuple[object, object]:  # the second pass must use the kernels of the first
        kernel = partial(attention_kernel, device, config.precision)
        return kernel(), kernel()

    # Functions of a layer, not bound to it, since a copy of the model takes them along.
    forwards: dict[type, Callable[..., Tensor]] = {
        type(each): type(each).forward for each in layers
    }
    if config.compile:
        # Else torch refuses the ninth shape of a function: LPIPS alone has five a micro-batch.
        torch._dynamo.config.recompile_limit = _SHAPES
        # Else every layer of a module under DDP is compiled in parts, one for each of its buckets.
        torch._dynamo.config.optimize_ddp = False
        # Else the adversary's gradient, which leaves the graph for another, finds buffers reused.
        torch._functorch.config.donated_buffer = not config.decoder_phase.adaptive
        forwards = {kind: torch.compile(each, dynamic=False) for kind, each in forwards.items()}
    for layer in layers:
        work = forwards[type(layer)]
        if config.recompute:
            work = partial(
                checkpoint,
                work,
                use_reentrant=False,
                preserve_rng_state=False,
                context_fn=contexts,
            )
        if config.compile or config.recompute:
            layer.forward = partial(work, layer)
