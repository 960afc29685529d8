"""``mimflow-train --dry-run``: what a run would cost, as text."""

from collections.abc import Iterable
from pathlib import Path

from mimflow_train.cli.disk import free_on_disk, kept_on_disk
from mimflow_train.config import TrainConfig
from mimflow_train.device.costs import RunCost, run_cost
from mimflow_train.device.hardware import Hardware, detect, matmul_rate, named_hardware
from mimflow_train.device.machine import choose_device, count_cores
from mimflow_train.device.step_time import IMAGES, image_as_measured, image_at_share, step_time
from mimflow_train.engine.sharding import shards_weights
from mimflow_train.frozen.weights import weights_status
from mimflow_train.plan import Plan
from mimflow_train.teachers import needed_files
from mimflow_train.telemetry.console import duration

__all__ = ["cost_table"]

_GIB = 2**30
_CARDS = (24, 40, 80, 141)  # GiB
# Share of a card's peak in a step of 32 images of L on one.
_ASSUMED = ((0.34, "what the paper's run comes to, assumed"), (0.45, "our target"))
# If matrix products took no time: fitted to benchmarks/default_run.md, less the 0.08 s of two cores
# that benchmarks/cpu_training_step.md has saved since.
_CORE_RATE = 0.18e12


def cost_table(
    config: TrainConfig,
    workers: int,
    phase: str,
    *,
    plan: Plan,
    out: Path,
    hardware: str | None = None,
) -> str:
    """Return parameters, work per image, memory per worker, time, disk, and where weights are.

    Args:
        config: The run.
        workers: Devices that share the batch.
        phase: ``joint``, ``decoder`` or ``all``.
        plan: How far the run goes and what it keeps.
        out: Where it keeps it.
        hardware: Name of the accelerator that each worker would have; None for this machine's.

    Raises:
        ConfigError: If nothing is known of the accelerator.
    """
    card = detect() if hardware is None else named_hardware(hardware)
    cost = run_cost(config, workers)
    size = config.model.encoder.image_size
    steps = f"{config.steps:,} + {config.decoder_phase.steps:,}"
    lines = [
        f"{config.scale}: {steps} steps of {config.global_batch} images, {size} x {size} px",
        "",
        f"  {'trained':<36}{'parameters':>12}{'GMAC an image, forward':>26}",
        *(_row(each.name, each.parameters, each.gmac) for each in cost.trained),
        _row(
            "  all",
            cost.num_trained,
            sum(each.gmac for each in cost.trained),
        ),
    ]
    if cost.discriminator is not None:
        name = "discriminator, second phase"
        lines.append(_row(name, cost.discriminator.parameters, cost.discriminator.gmac))
    lines += [
        "",
        f"  {'frozen':<36}{'parameters':>12}{'GMAC an image, forward':>26}   in a step",
        *(
            f"{_row(each.name, each.parameters, each.gmac)}   x {each.passes}"
            for each in cost.frozen
        ),
        "",
        f"  a training image of the joint phase  {cost.training_flops / 1e12:.3g} TFLOP",
        *_memory(config, cost, workers),
        *(_fit(config, cost, workers, card) if card is not None else ()),
        _disk(config, cost, plan, out),
        *_time(config, cost, workers, card),
        *_left_out(config, plan),
        *_weights(config, phase),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, parameters: int, gmac: float) -> str:
    return f"  {name:<36}{parameters / 1e6:>10.2f} M{gmac:>26.2f}"


def _memory(config: TrainConfig, cost: RunCost, workers: int) -> Iterable[str]:
    share = config.global_batch // workers
    micro_batch = config.micro_batch or share
    fixed, each = cost.static_bytes / _GIB, cost.activation_bytes / _GIB
    sharded = ", which shard the weights," if shards_weights(config, workers) else ""
    yield (
        f"  memory of each of {workers} worker(s){sharded}  "
        f"{cost.memory(micro_batch) / _GIB:.1f} GiB at micro_batch {micro_batch}: "
        f"{fixed:.1f} GiB + {each:.3f} GiB an image, estimated for bf16, libraries not counted"
    )
    fitting = (f"{card} GiB: {cost.largest_micro_batch(card * _GIB)}" for card in _CARDS)
    yield f"  largest micro_batch  {', '.join(fitting)}"


def _fit(config: TrainConfig, cost: RunCost, workers: int, card: Hardware) -> Iterable[str]:
    """Say which micro_batch to set if the one that is set does not fit."""
    share, available = config.global_batch // workers, int(card.memory_gib * _GIB)
    if cost.memory(config.micro_batch or share) <= available:
        return
    largest = min(share, cost.largest_micro_batch(available))
    divisors = [size for size in range(1, largest + 1) if share % size == 0]
    advice = f"--set micro_batch={divisors[-1]} does" if divisors else "nor does a single image"
    yield f"  does not fit into the {card.memory_gib:.0f} GiB of {card.name}; {advice}"


def _disk(config: TrainConfig, cost: RunCost, plan: Plan, out: Path) -> str:
    kept, free = kept_on_disk(config, plan, cost.num_trained), free_on_disk(out)
    names = ["the newest two", "one being written", "the joint phase's last"][
        : kept.checkpoints - 1
    ]
    line = (
        f"  disk  {kept.total / _GIB:.1f} GiB: {kept.checkpoints} checkpoints of "
        f"{kept.checkpoint / _GIB:.2f} GiB ({', '.join(names)}), the weights of "
        f"{kept.milestones} milestone(s), {kept.weights / _GIB:.2f} GiB each, and "
        f"{kept.pictures} picture(s) of samples, one every {plan.checkpoint_every:,} steps, "
        f"{kept.drawn / _GIB:.1f} GiB together"
    )
    if free is None:
        return line
    verdict = ", too little for a new run" if free < kept.total else ""
    return f"{line}; {free / _GIB:.1f} GiB are free for {out}{verdict}"


def _time(config: TrainConfig, cost: RunCost, workers: int, card: Hardware | None) -> Iterable[str]:
    """Say how long the joint phase takes on the accelerator, or on this machine's CPU."""
    if card is not None:
        yield from _time_on(card, config, cost, workers)
    elif choose_device("auto") == "cuda":
        yield "  time  nothing is known of this machine's GPU; name another with --hardware"
    else:
        rate, others = matmul_rate(), _CORE_RATE * count_cores()
        work = cost.training_flops * config.global_batch
        seconds = config.steps * work * (1 / rate + 1 / others)
        yield (
            f"  on this machine's CPU about {duration(seconds)} of joint training: an estimate, by "
            f"the {rate / 1e12:.2f} TFLOP/s of its matrix products just now and "
            f"{others / 1e12:.2f} for all else on {count_cores()} core(s); "
            "--hardware A100, say, tells another's"
        )


def _time_on(card: Hardware, config: TrainConfig, cost: RunCost, workers: int) -> Iterable[str]:
    """Say how long the joint phase takes on an accelerator, by all that is known of a step."""
    flops = cost.training_flops
    again = 2e9 * sum(each.gmac for each in cost.trained) if config.recompute else 0.0
    rows = [
        (
            image_at_share(card, share, flops + again),
            f"at {100 * share:.3g}% of {card.tflops:g} TFLOP/s ({why})",
        )
        for share, why in _ASSUMED
    ]
    measured = image_as_measured(config, card, flops, again)
    if measured is not None:
        rates = f"{card.tflops:g} TFLOP/s and {card.bandwidth:g} TB/s"
        why = f"as {IMAGES} images of L were measured on one H100, extrapolated by {rates}"
        rows = [(measured, why), *rows]
    images = config.global_batch // workers
    # Launches do not shrink with the images, nor with the networks' width.
    most = "at most " if images < IMAGES or config.scale != "L" else ""
    for image, why in rows:
        time = step_time(config, cost, card, workers=workers, image=image)
        speed = 1 / sum(time)
        parts = " + ".join(f"{1000 * each:.0f}" for each in time)
        yield (
            f"  {workers} x {card.name} {why}  "
            f"{parts} ms a step: {most}{speed:.2f} steps/s, "
            f"{speed * config.global_batch:.0f} images/s, "
            f"{config.steps / speed / 3600:.1f} h of joint training"
        )
    yield (
        f"  the percentages are of steps of {IMAGES} images of L on a card. A step here is the "
        f"work of {images} image(s) + the update of the weights + all-reduce at NVLink's 200 GB/s, "
        "of which cards without it have a tenth, as far as no work hides it; no step has been "
        "timed on several cards"
    )


def _left_out(config: TrainConfig, plan: Plan) -> Iterable[str]:
    if plan.until > config.steps:
        yield f"  the {plan.until - config.steps:,} steps of the decoder phase are in no time here"


def _weights(config: TrainConfig, phase: str) -> Iterable[str]:
    first, second = phase != "decoder", phase != "joint" and config.decoder_phase.steps > 0
    for file in needed_files(config, joint_phase=first, decoder_phase=second):
        yield f"  weights of {file.network}  {weights_status(file)}"
