"""The training loop: a function of a context, a configuration and images."""

import math
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from genmetrics import GenmetricsError
from mimflow_train.config import TrainConfig
from mimflow_train.data.images import LabelledImages, to_unit
from mimflow_train.data.loading import load
from mimflow_train.data.order import image_order
from mimflow_train.data.prefetch import prefetched
from mimflow_train.draws import Draws, draw_step, drop_labels, mirror
from mimflow_train.engine.all_reduce import mean_over_workers
from mimflow_train.engine.context import Context
from mimflow_train.engine.sharding import shards_weights
from mimflow_train.errors import ConfigError, DivergedError, MimflowError, PeerError
from mimflow_train.failures import Skipped, StepError, diagnosis, is_lost_peer
from mimflow_train.micro_batches import Batch
from mimflow_train.objective import nll_floor
from mimflow_train.phases import Phase, phase_of
from mimflow_train.state import DecoderState, State
from mimflow_train.teachers import Targets
from mimflow_train.telemetry.health import Health

__all__ = ["Calls", "train"]

_REPORT_EVERY = 10
STOP_AFTER_SKIPS = 3


class Calls(NamedTuple):
    """Whom the loop calls, on every rank.

    Attributes:
        save_every: Steps between calls of ``save``.
        save: Receives the state, also at the end of a phase.
        skipped: Receives each step whose gradient was not finite.
        stepped: Receives the number of steps done after each.
        judge: Receives the state before a report, and returns what to add to it; rank 0's alone.
    """

    save_every: int
    save: Callable[[State], object]
    skipped: Callable[[Skipped], object] = lambda _: None
    stepped: Callable[[int], object] = lambda _: None
    judge: Callable[[State], dict[str, float]] = lambda _: {}


def train(
    context: Context,
    config: TrainConfig,
    data: LabelledImages,
    *,
    state: State,
    calls: Calls,
) -> None:
    """Train to the end of the state's phase or until the context asks to stop, saving on the way.

    Args:
        context: This worker among its peers.
        config: The run.
        data: Images; only ``data.train`` is looked at.
        state: Where to start; changed in place. Its step is ``state.end`` afterwards unless the
            context asked to stop earlier.
        calls: Who hears of saves and of skipped steps.

    Raises:
        DivergedError: After three steps in a row without a finite gradient.
        ConfigError: If a micro-batch does not fit the device's memory at the first step.
        StepError: If a step fails for a reason that is not the user's.
        PeerError: If another worker has ended.
    """
    if state.step >= state.end:
        return
    if isinstance(state, DecoderState):
        targets = Targets.without_teachers(config, context.device)
    else:
        targets = Targets.load(config, data, context.device)
    first = state.step
    try:
        phase = phase_of(state, context, config, targets)
        _train(context, config, data, phase=phase, state=state, calls=calls)
    except torch.OutOfMemoryError as error:
        if state.step > first:  # steps fitted: another program, or fragments; a new start may do
            raise _failed(state, error, "; if it comes again, lower --micro-batch") from error
        searched = not config.micro_batch or shards_weights(config, context.world_size)
        raise ConfigError(
            f"Expected a micro-batch of {config.micro_batch or 'all images of a worker'} to fit the"
            f" device's memory; it does not. Give {'' if searched else '--micro-batch auto, or '}"
            "a smaller --micro-batch, or --set recompute=true."
        ) from error
    except (MimflowError, GenmetricsError, OSError):
        raise
    except Exception as error:
        if is_lost_peer(error):
            raise PeerError(
                f"Step {state.step} met with the end of another worker, which says why. "
                f"({str(error).splitlines()[0]})"
            ) from error
        raise _failed(state, error) from error


def _failed(state: State, error: Exception, advice: str = "") -> StepError:
    said = str(error).strip().splitlines()[:1]
    return StepError(state.step, ": ".join([type(error).__name__, *said]).rstrip(".") + advice)


def _train(
    context: Context,
    config: TrainConfig,
    data: LabelledImages,
    *,
    phase: Phase,
    state: State,
    calls: Calls,
) -> None:
    health = Health(config, context.device, context.world_size)
    for batch, draws in health.fetched(_prepared(context, config, data, state)):
        values = phase.gradients(batch, draws)
        norms = phase.clip()
        if is_good := _are_finite(norms):
            after = phase.update()  # of the decoder phase it may tell of a discriminator
            # Norms are alike on all workers, who have to agree; a worker's own terms are not.
            is_good = _are_finite({name: after[name] for name in after if name.endswith("_norm")})
            values |= after
        else:
            phase.skip()
        state.skips = 0 if is_good else state.skips + 1
        if not is_good:
            found = {name: float(value) for name, value in {**values, **norms}.items()}
            calls.skipped(Skipped(state.step, found, batch.indices.tolist()))
            if state.skips == STOP_AFTER_SKIPS:
                phase.gradients(batch, draws)  # anew, since clipping has spread what was not finite
                raise DivergedError(
                    f"Expected finite gradients; got {state.skips} steps in a row without, at step "
                    f"{state.step}, {diagnosis(values | norms, _weights(state))}. {_slower(state)}",
                    state.step,
                )
        state.step += 1
        health.after_step(skipped=not is_good)
        calls.stepped(state.step)
        if state.step % _REPORT_EVERY == 0 or state.step == state.end:
            means = _means(context, config, values | norms)
            if context.rank == 0:
                line = health.line(means | {"learning_rate": state.learning_rate})
                with health.apart():
                    context.report(state.step, line | phase.latents() | calls.judge(state))
        stop = context.should_stop()
        if stop or state.step % calls.save_every == 0 or state.step == state.end:
            with health.apart():
                calls.save(state)
        if stop:
            break


def _slower(state: State) -> str:
    if isinstance(state, DecoderState):
        return (
            "Lower decoder_phase.optim.lr and run again, in a copy of the run without this phase's "
            "checkpoints."
        )
    return (
        "Begin a new --out from the last checkpoint or milestone with --init RUN_OR_FILE, and "
        "lower optim.lr."
    )


def _weights(state: State) -> Iterator[tuple[str, nn.Parameter]]:
    yield from state.model.named_parameters()
    if isinstance(state, DecoderState):
        yield from state.discriminator.named_parameters("discriminator")


def _are_finite(values: dict[str, Tensor]) -> bool:
    return all(math.isfinite(float(value)) for value in values.values())


def _prepared(
    context: Context, config: TrainConfig, data: LabelledImages, state: State
) -> Iterator[tuple[Batch, Draws]]:
    """Yield what each step learns from, on the device; on a GPU while it works at the step before.

    A CPU has nothing to gain: whoever prepared would take it from whoever computes.
    """
    left = range(state.step, state.end)
    steps = _steps(context, config, data, left, stream=state.draw_stream)
    if context.device.type != "cuda":
        return steps
    # A thread's own device is the first one, where it would take memory from another worker.
    return prefetched(steps, partial(torch.cuda.set_device, torch.cuda.current_device()))


def _steps(
    context: Context, config: TrainConfig, data: LabelledImages, steps: range, *, stream: int
) -> Generator[tuple[Batch, Draws]]:
    rows, device = _rows(context, config), context.device
    for step, (indices, pixels) in zip(steps, _batches(context, config, data, steps), strict=True):
        draws = draw_step(config, step, rows, stream=stream)
        label = drop_labels(data.train.labels[indices], draws.dropped)
        image = mirror(to_unit(pixels.to(device, non_blocking=True)), config, step, rows)
        draws = Draws(*(_sent(each, device) for each in draws))
        yield Batch(image, _sent(label, device), indices), draws


def _sent(value: Tensor, device: torch.device) -> Tensor:
    """Copy to the device; a GPU copies from pinned memory without waiting for the step before."""
    value = value.pin_memory() if device.type == "cuda" else value
    return value.to(device, non_blocking=True)


def _batches(
    context: Context, config: TrainConfig, data: LabelledImages, steps: range
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the indices and pixels of this worker's part of the global batch of each step."""
    order = image_order(data.train.labels, config.seed, even_classes=config.data.even_classes)
    rows = _rows(context, config)
    firsts = (step * config.global_batch for step in steps)
    indices = ([order[first + row] for row in range(rows.start, rows.stop)] for first in firsts)
    pin_memory = context.device.type == "cuda"
    return load(data.train.images, indices, loaders=config.data.loaders, pin_memory=pin_memory)


def _rows(context: Context, config: TrainConfig) -> slice:
    share = config.global_batch // context.world_size
    return slice(context.rank * share, (context.rank + 1) * share)


def _means(context: Context, config: TrainConfig, values: dict[str, Tensor]) -> dict[str, float]:
    """Return the mean of each value over the workers, and the rate where there is an NLL."""
    numbers = torch.stack([value.detach().float() for value in values.values()])
    (numbers,) = mean_over_workers([numbers], context.world_size)
    means = dict(zip(values, numbers.tolist(), strict=True))
    if "nll" in means:
        means["rate"] = means["nll"] - nll_floor(config.model.encoder.sigma)
    return means
