"""What a step and a sample cost in time and memory, all in one process on one device."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from mimflow_train.config import TrainConfig
from mimflow_train.costs import BYTES_PER_TRAINED
from mimflow_train.memory import kept_bytes
from mimflow_train.micro_batches import precision
from mimflow_train.objective import joint_objective
from mimflow_train.reproduce.design import Experiment, Variant
from mimflow_train.reproduce.outcome import Column, Outcome, Row
from mimflow_train.reproduce.session import Session
from mimflow_train.reproduce.variants import variant_config
from mimflow_train.state import TrainState, take_step
from tarflow_prior import TarFlow, nll_per_dim

__all__ = ["time_steps", "time_tokens"]

_BATCH = 32
_REPEATS = 5


def time_steps(session: Session, experiment: Experiment) -> Outcome:
    """Measure a joint step of the whole model, without frozen networks, and its sampling.

    Args:
        session: The recipe and the device.
        experiment: The rows.
    """
    batch = 8 if session.quick else min(_BATCH, session.base.global_batch)
    rows = tuple(_row(session, experiment, each, batch, _joint) for each in experiment.variants)
    columns = (
        Column(key="memory_gb", paper="memory, GB", ours="memory, GB", digits=3),
        Column(key="steps_per_s", paper="steps/s", ours="steps/s", digits=2),
        Column(key="sample_s", paper="s a sample", ours="s a sample", digits=4),
    )
    counts = (
        f"batches of {batch} images on {session.device.type}, samples {batch} at a time and "
        f"without guidance; medians of {_repeats(session)} repetitions after one that is left out"
    )
    return Outcome(columns=columns, rows=rows, counts=counts)


def time_tokens(session: Session, experiment: Experiment) -> Outcome:
    """Measure training and sampling of the flow alone, by the number of tokens.

    Args:
        session: The recipe and the device.
        experiment: The rows.
    """
    batch = 8 if session.quick else _BATCH
    rows = tuple(_row(session, experiment, each, batch, _flow) for each in experiment.variants)
    columns = (
        Column(key="tokens", paper="", ours="tokens", digits=0),
        Column(key="train_ms", paper="train, ms", ours="train, ms", digits=1),
        Column(key="sample_s", paper="sample, s", ours="sample, s", digits=4),
    )
    counts = (
        f"training steps of {batch} on {session.device.type}, one sample at a time; medians of "
        f"{_repeats(session)} repetitions after one that is not counted"
    )
    return Outcome(columns=columns, rows=rows, counts=counts)


Costs = dict[str, tuple[float, ...]]


def _row(
    session: Session,
    experiment: Experiment,
    variant: Variant,
    batch: int,
    measure: Callable[[Session, TrainConfig, int], Costs],
) -> Row:
    why_not = variant.why_not(session.base.scale)
    ours: Costs = {}
    if not why_not:
        seed, settings = session.seeds[0], session.settings
        config = variant_config(session.base, experiment, variant, seed, settings)
        ours = measure(session, replace(config, global_batch=batch), batch)
    return Row(label=variant.label, paper=variant.paper, ours=ours, why_not=why_not)


def _flow(session: Session, config: TrainConfig, batch: int) -> Costs:
    flow = TarFlow(config.model.flow).to(session.device)
    optimizer = torch.optim.AdamW(flow.parameters(), lr=1e-4)
    shape = (config.model.flow.num_tokens, config.model.flow.token_dim)
    z = torch.randn(batch, *shape, device=session.device)
    label = torch.zeros(batch, dtype=torch.int64, device=session.device)

    def step() -> None:
        with precision(session.device, config.precision):
            loss = nll_per_dim(flow(z, label)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    seconds = _median_seconds(session, step)
    sampling = _median_seconds(session, lambda: flow.sample(label[:1]))
    return {
        "tokens": (float(shape[0]),),
        "train_ms": (1e3 * seconds,),
        "sample_s": (sampling,),
    }


def _joint(session: Session, config: TrainConfig, batch: int) -> Costs:
    loss = replace(config.loss, perceptual=0.0, feature=0.0)
    config = replace(config, loss=loss)
    device = session.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    state = TrainState(config, device)
    step = _joint_step(state, batch, device)
    kept = kept_bytes(state.model.parameters(), step)
    seconds = _median_seconds(session, step)
    held = BYTES_PER_TRAINED * sum(each.numel() for each in state.model.parameters()) + kept
    if device.type == "cuda":
        held = torch.cuda.max_memory_allocated(device)
    label = torch.zeros(batch, dtype=torch.int64, device=device)
    sampling = _median_seconds(session, lambda: state.ema.generate(label))
    return {
        "memory_gb": (held / 1e9,),
        "steps_per_s": (1 / seconds,),
        "sample_s": (sampling / batch,),
    }


def _joint_step(state: TrainState, batch: int, device: torch.device) -> Callable[[], None]:
    config, model = state.config, state.model
    encoder = config.model.encoder
    draw = torch.Generator().manual_seed(0)
    image = torch.rand(batch, 3, encoder.image_size, encoder.image_size, generator=draw).to(device)
    noise = torch.randn(batch, encoder.num_latents, encoder.latent_dim, generator=draw).to(device)
    masked = (torch.arange(encoder.num_patches) % 2 == 0).expand(batch, -1).to(device)
    label = torch.zeros(batch, dtype=torch.int64, device=device)

    def step() -> None:
        with precision(device, config.precision):
            output = model(image, label, masked, noise)
            objective = joint_objective(
                output, image, masked, weights=config.loss, targets={}, perceptual=None
            )
        objective.total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
        take_step(state.optimizer, config.optim, 0, config.steps)
        state.average(config.optim.ema_decay)

    return step


def _median_seconds(session: Session, work: Callable[[], object]) -> float:
    times = []
    for _ in range(1 + _repeats(session)):
        began = time.perf_counter()
        work()
        if session.device.type == "cuda":
            torch.cuda.synchronize(session.device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def _repeats(session: Session) -> int:
    return 1 if session.quick else _REPEATS
