"""What a step and a sample cost in time and memory, all in one process on one device."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mimflow_train.config import TrainConfig
from mimflow_train.device.costs import BYTES_PER_TRAINED
from mimflow_train.device.memory import kept_bytes, set_computation
from mimflow_train.frozen.teacher import FeatureTarget, cosine_distance
from mimflow_train.micro_batches import is_bf16, precision
from mimflow_train.objective import joint_objective
from mimflow_train.reproduce.design import Experiment, Variant
from mimflow_train.reproduce.outcome import Column, Outcome, Row
from mimflow_train.reproduce.session import Session
from mimflow_train.reproduce.variants import variant_config
from mimflow_train.state import TrainState, take_step
from tarflow_prior import TarFlow, nll_per_dim

__all__ = ["growth", "time_steps", "time_tokens"]

_BATCH = 32
_REPEATS = 5
_BYTES_PER_FLOW = 16  # as BYTES_PER_TRAINED, without the average


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
        f"without guidance; feature decoders imitate random features; {_conditions(session)}"
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
        Column(key="memory_gb", paper="", ours="memory of a step, GB", digits=3),
        Column(key="train_ms", paper="train, ms", ours="train, ms", digits=1),
        Column(key="sample_s", paper="sample, s", ours="sample, s", digits=4),
    )
    counts = (
        f"training steps of {batch} on {session.device.type}, one sample at a time; "
        f"{_conditions(session)}"
    )
    return Outcome(columns=columns, rows=rows, counts=counts, notes=_growth_notes(rows, columns))


def growth(tokens: Sequence[float], costs: Sequence[float]) -> float:
    """Return the exponent of the power of the tokens that fits their costs, by least squares.

    Args:
        tokens: Their numbers, at least two.
        costs: What each number costs.

    Example:
        >>> round(growth([8.0, 16.0, 64.0], [3.0, 12.0, 192.0]), 3)
        2.0
    """
    logs = ([math.log(each) for each in values] for values in (tokens, costs))
    return statistics.linear_regression(*logs).slope


def _growth_notes(rows: Sequence[Row], columns: Sequence[Column]) -> tuple[str, ...]:
    run = [row for row in rows if row.ours]
    if len(run) < 2:
        return ()
    tokens = [row.ours["tokens"][0] for row in run]
    parts = []
    for column in columns[1:]:
        found = f"{column.ours.partition(',')[0]} {_power(tokens, run, column.key, ours=True)}"
        if all(column.key in row.paper for row in run):
            found += f" (the paper's {_power(tokens, run, column.key, ours=False)})"
        parts.append(found)
    return (
        f"Growth, as a power of the number of tokens that is fitted to {len(run)} rows (1 is in "
        f"proportion, weights are in the memory): {', '.join(parts)}.",
    )


def _power(tokens: Sequence[float], rows: Sequence[Row], key: str, *, ours: bool) -> str:
    costs = [float(row.ours[key][0] if ours else row.paper[key]) for row in rows]
    return f"{growth(tokens, costs):.2f}"


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
        if config.compile:  # torch gives up after a few shapes of one function
            torch.compiler.reset()
        try:
            ours = measure(session, replace(config, global_batch=batch), batch)
        except torch.OutOfMemoryError:
            why_not = "does not fit the device's memory"
    return Row(label=variant.label, paper=variant.paper, ours=ours, why_not=why_not)


def _flow(session: Session, config: TrainConfig, batch: int) -> Costs:
    others = _allocated(session.device)
    with torch.random.fork_rng(devices=[]):
        flow = TarFlow(config.model.flow).to(session.device)
    shape = (config.model.flow.num_tokens, config.model.flow.token_dim)
    draw = _generator(session.device)
    z = torch.randn(batch, *shape, device=session.device, generator=draw)
    label = torch.zeros(batch, dtype=torch.int64, device=session.device)
    sampling = _sampling(session, flow, label[:1], lambda z: z)
    optimizer = torch.optim.AdamW(flow.parameters(), lr=1e-4, fused=True)
    set_computation(flow, config, session.device)  # after sampling, which a run does without it

    def step() -> None:
        with precision(session.device, config.precision):
            loss = nll_per_dim(flow(z, label)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    seconds, held = _training(session, flow.parameters(), _BYTES_PER_FLOW, step, others)
    return {
        "tokens": (float(shape[0]),),
        "memory_gb": (held / 1e9,),
        "train_ms": (1e3 * seconds,),
        "sample_s": (sampling,),
    }


def _joint(session: Session, config: TrainConfig, batch: int) -> Costs:
    config, device = replace(config, loss=replace(config.loss, perceptual=0.0)), session.device
    others = _allocated(device)
    state = TrainState(config, device)
    set_computation(state.model, config, device)
    step = _joint_step(state, batch, device)
    weights = state.model.parameters()
    seconds, held = _training(session, weights, BYTES_PER_TRAINED, step, others)
    label = torch.zeros(batch, dtype=torch.int64, device=device)
    sampling = _sampling(session, state.ema.flow, label, torch.no_grad()(state.ema.decoder))
    return {
        "memory_gb": (held / 1e9,),
        "steps_per_s": (1 / seconds,),
        "sample_s": (sampling / batch,),
    }


def _sampling(
    session: Session, flow: TarFlow, label: Tensor, decode: Callable[[Tensor], object]
) -> float:
    """Return the seconds of a batch of samples, from a decoder that is kept for many."""
    decoder, draw = flow.decoder(len(label)), _generator(session.device)
    return _median_seconds(session, lambda: decode(decoder.sample(label, generator=draw)))


def _joint_step(state: TrainState, batch: int, device: torch.device) -> Callable[[], None]:
    config, model = state.config, state.model
    encoder = config.model.encoder
    draw = torch.Generator().manual_seed(0)
    image = torch.rand(batch, 3, encoder.image_size, encoder.image_size, generator=draw).to(device)
    noise = torch.randn(batch, encoder.num_latents, encoder.latent_dim, generator=draw).to(device)
    masked = (torch.arange(encoder.num_patches) % 2 == 0).expand(batch, -1).to(device)
    label = torch.zeros(batch, dtype=torch.int64, device=device)
    targets = {}
    for name, each in config.trained_model.features.items():
        features = torch.randn(batch, encoder.num_patches, each.feature_dim, generator=draw)
        targets[name] = FeatureTarget(features.to(device), cosine_distance)

    def step() -> None:
        with precision(device, config.precision):
            output = model(image, label, masked, noise)
            objective = joint_objective(
                output, image, masked, weights=config.loss, targets=targets, perceptual=None
            )
        objective.total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
        take_step(state.optimizer, config.optim, 0, config.steps)
        state.average(config.optim.ema_decay)

    return step


def _generator(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(0)


def _allocated(device: torch.device) -> int:
    """Return the bytes on a GPU before a row; what the row before it has left is let go of."""
    gc.collect()
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _training(
    session: Session,
    weights: Iterable[Tensor],
    bytes_each: int,
    step: Callable[[], None],
    others: int,
) -> tuple[float, int]:
    """Return the seconds of a step, and the bytes of training.

    Those are the peak on a GPU, of steps after the first, which makes the moments; and what
    autograd keeps beside the ``bytes_each`` of a weight on a CPU.
    """
    device, own = session.device, list(weights)
    if device.type != "cuda":
        kept = kept_bytes(own, step)
        return _median_seconds(session, step), kept + bytes_each * sum(each.numel() for each in own)
    step()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    seconds = _median_seconds(session, step)
    return seconds, torch.cuda.max_memory_allocated(device) - others


def _median_seconds(session: Session, work: Callable[[], object]) -> float:
    times = []
    for _ in range(1 + _repeats(session)):
        began = time.perf_counter()
        work()
        if session.device.type == "cuda":
            torch.cuda.synchronize(session.device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def _conditions(session: Session) -> str:
    base = session.base
    products = "bf16" if is_bf16(session.device, base.precision) else "fp32"
    how = [f", {name}" for name in ("compile", "recompute") if getattr(base, name)]
    return (
        f"steps in {products}{''.join(how)}; samples in fp32 by a kept decoder, not compiled; "
        f"medians of {_repeats(session)} repetitions after one that is left out"
    )


def _repeats(session: Session) -> int:
    return 1 if session.quick else _REPEATS
