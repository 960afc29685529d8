"""The training loop: a function of a context, a configuration and images."""

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from mimflow_train.config import TrainConfig
from mimflow_train.context import Context
from mimflow_train.data.images import LabelledImages, to_unit
from mimflow_train.data.order import EpochOrder, EvenClassOrder, batches
from mimflow_train.draws import Draws, draw_step, drop_labels, generator
from mimflow_train.errors import ConfigError, DivergedError
from mimflow_train.objective import Objective, joint_objective, nll_floor
from mimflow_train.state import TrainState, learning_rate
from mimflow_train.teachers import Targets

__all__ = ["train"]

_REPORT_EVERY = 10
_STOP_AFTER_SKIPS = 3


def train(
    context: Context,
    config: TrainConfig,
    data: LabelledImages,
    *,
    state: TrainState,
    save_every: int,
    save: Callable[[TrainState], object],
) -> None:
    """Train until ``config.steps`` or until the context asks to stop, saving on the way.

    Args:
        context: This worker among its peers.
        config: The run.
        data: Images; only ``data.train`` is looked at.
        state: Where to start; changed in place. Its step is ``config.steps`` afterwards unless
            the context asked to stop earlier.
        save_every: Steps between calls of ``save``.
        save: Called on every rank, also at the end, with the state.

    Raises:
        DivergedError: After three steps in a row without a finite gradient.
    """
    if state.step >= config.steps:
        return
    targets = Targets.load(config, data, context.device)
    module: nn.Module = state.model
    if context.world_size > 1:
        module = DistributedDataParallel(state.model, gradient_as_bucket_view=True)
    skipped = 0
    for indices, pixels in _batches(context, config, data, state.step):
        rows = _rows(context, config)
        draws = draw_step(config, state.step, rows)
        label = drop_labels(data.train.labels[indices], draws.dropped)
        image = _flipped(to_unit(pixels), config, state.step, rows)
        _seed_dropout(config, state.step, context.rank)
        values = _gradients(module, config, context, targets, (image, label, indices), draws)
        norm = nn.utils.clip_grad_norm_(state.model.parameters(), config.optim.clip_norm)
        if math.isfinite(float(norm)):
            skipped = 0
            _update(state, config)
        else:
            skipped += 1
            state.optimizer.zero_grad()
            _check_diverged(skipped, values, state.step)
        state.step += 1
        _report(context, config, values | {"gradient_norm": norm}, state.step)
        stop = context.should_stop()
        if stop or state.step % save_every == 0 or state.step == config.steps:
            save(state)
        if stop:
            break


def _batches(
    context: Context, config: TrainConfig, data: LabelledImages, start: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield this worker's part of every global batch from step ``start`` on."""
    order: EpochOrder | EvenClassOrder = EpochOrder(len(data.train.images), config.seed)
    if config.data.even_classes:
        order = EvenClassOrder(data.train.labels, config.seed)
    rows = _rows(context, config)
    positions = (
        list(range(step * config.global_batch + rows.start, step * config.global_batch + rows.stop))
        for step in range(start, config.steps)
    )
    return batches(data.train, order, positions)


def _rows(context: Context, config: TrainConfig) -> slice:
    share = config.global_batch // context.world_size
    return slice(context.rank * share, (context.rank + 1) * share)


def _flipped(image: Tensor, config: TrainConfig, step: int, rows: slice) -> Tensor:
    """Mirror half of the images if the data may be mirrored."""
    if not config.data.flip:
        return image
    uniform = torch.rand(config.global_batch, generator=generator(config.seed, "flip", step))
    return torch.where((uniform[rows] < 0.5)[:, None, None, None], image.flip(-1), image)


def _seed_dropout(config: TrainConfig, step: int, rank: int) -> None:
    """Make drop path, torch's only global draw here, stateless; it alone depends on the rank."""
    draw = generator(config.seed, f"drop path {rank}", step)
    torch.manual_seed(int(torch.randint(2**62, (), generator=draw)))


def _gradients(
    module: nn.Module,
    config: TrainConfig,
    context: Context,
    targets: Targets,
    batch: tuple[Tensor, Tensor, Tensor],
    draws: Draws,
) -> dict[str, Tensor]:
    """Add up the gradients of the batch, one micro-batch at a time; return the mean terms."""
    image, label, indices = batch
    size = config.micro_batch or len(image)
    if len(image) % size:
        raise ConfigError(
            f"Expected micro_batch to divide a worker's {len(image)} images; got {size}. "
            "Choose a divisor."
        )
    count = len(image) // size
    sums: dict[str, Tensor] = {}
    for number in range(count):
        part = slice(number * size, (number + 1) * size)
        last = number == count - 1
        quiet: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if not last and isinstance(module, DistributedDataParallel):
            quiet = module.no_sync()
        moved = [each[part].to(context.device) for each in (image, label, *draws[:2])]
        with quiet:
            objective = _objective(module, config, targets, moved, indices[part])
            (objective.total / count).backward()
        for name, value in {**objective.terms, "loss": objective.total}.items():
            sums[name] = sums.get(name, torch.zeros(())) + value.detach() / count
    return sums


def _objective(
    module: nn.Module,
    config: TrainConfig,
    targets: Targets,
    moved: list[Tensor],
    indices: Tensor,
) -> Objective:
    image, label, masked, noise = moved
    with _precision(image.device, config.precision):
        output = module(image, label, masked, noise)
        return joint_objective(
            output,
            image,
            masked,
            weights=config.loss,
            targets=targets.features(image, indices),
            perceptual=targets.perceptual,
        )


@contextlib.contextmanager
def _precision(device: torch.device, precision: str) -> Iterator[None]:
    """Run matrix products in bf16 if asked to, or on `auto` if the device is fast at it."""
    if precision == "auto":
        fast = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        precision = "bf16" if fast else "fp32"
    if precision == "fp32":
        yield
        return
    with contextlib.ExitStack() as stack:
        if device.type == "cpu":
            # The fused kernel's bf16 backward is slow on CPUs: benchmarks/cpu_training_step.md.
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        yield


def _update(state: TrainState, config: TrainConfig) -> None:
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config.optim, state.step, config.steps)
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.average(config.optim.ema_decay)


def _check_diverged(skipped: int, values: dict[str, Tensor], step: int) -> None:
    if skipped < _STOP_AFTER_SKIPS:
        return
    wrong = [name for name, value in values.items() if not torch.isfinite(value)]
    raise DivergedError(
        f"Expected finite gradients; got {skipped} steps in a row without, at step {step}, "
        f"non-finite terms: {', '.join(wrong) or 'none (only the gradient)'}. "
        "Lower optim.lr and run again with a new --out."
    )


def _report(context: Context, config: TrainConfig, values: dict[str, Tensor], step: int) -> None:
    """Publish the mean over the workers, every few steps."""
    if step % _REPORT_EVERY and step != config.steps:
        return
    names = list(values)
    numbers = torch.stack([values[name].float() for name in names])
    if context.world_size > 1:
        dist.all_reduce(numbers)
        numbers /= context.world_size
    if context.rank == 0:
        named = dict(zip(names, numbers.tolist(), strict=True))
        named["rate"] = named["nll"] - nll_floor(config.model.encoder.sigma)
        context.report(step, named)
