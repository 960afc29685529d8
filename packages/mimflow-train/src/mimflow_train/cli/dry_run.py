"""``mimflow-train --dry-run``: what a run would cost, as text."""

from collections.abc import Iterable

from mimflow_train.config import TrainConfig
from mimflow_train.costs import RunCost, run_cost
from mimflow_train.frozen.weights import weights_status
from mimflow_train.teachers import needed_files

__all__ = ["cost_table"]

_GIB = 2**30
_CARDS = (24, 40, 80, 141)  # GiB


def cost_table(config: TrainConfig, workers: int, phase: str) -> str:
    """Return parameters, work per image, memory per worker, and where weights come from.

    Args:
        config: The run.
        workers: Devices that share the batch.
        phase: ``joint``, ``decoder`` or ``all``.
    """
    cost = run_cost(config)
    size = config.model.encoder.image_size
    steps = f"{config.steps:,} + {config.decoder_phase.steps:,}"
    lines = [
        f"{config.scale}: {steps} steps of {config.global_batch} images, {size} x {size} px",
        "",
        f"  {'trained':<36}{'parameters':>12}{'GMAC an image, forward':>26}",
        *(_row(each.name, each.parameters, each.gmac) for each in cost.trained),
        _row(
            "  all",
            sum(each.parameters for each in cost.trained),
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
        f"  a training image of the joint phase  {cost.training_flops / 1e12:.2f} TFLOP",
        *_memory(config, cost, workers),
        *_weights(config, phase),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, parameters: int, gmac: float) -> str:
    return f"  {name:<36}{parameters / 1e6:>10.2f} M{gmac:>26.2f}"


def _memory(config: TrainConfig, cost: RunCost, workers: int) -> Iterable[str]:
    share = config.global_batch // workers
    micro_batch = config.micro_batch or share
    fixed, each = cost.static_bytes / _GIB, cost.activation_bytes / _GIB
    yield (
        f"  memory of each of {workers} worker(s)  {cost.memory(micro_batch) / _GIB:.1f} GiB at "
        f"micro_batch {micro_batch}: {fixed:.1f} GiB + {each:.3f} GiB an image, estimated for "
        "bf16, libraries not counted"
    )
    fitting = (f"{card} GiB: {cost.largest_micro_batch(card * _GIB)}" for card in _CARDS)
    yield f"  largest micro_batch  {', '.join(fitting)}"


def _weights(config: TrainConfig, phase: str) -> Iterable[str]:
    second = phase != "joint" and config.decoder_phase.steps > 0
    for file in needed_files(config, decoder_phase=second):
        yield f"  weights of {file.network}  {weights_status(file)}"
