"""What experiments would cost at a scale, and what they still lack, before anything is trained."""

from collections.abc import Mapping
from typing import NamedTuple

from mimflow_train.config import TrainConfig
from mimflow_train.costs import training_flops
from mimflow_train.frozen.weights import weights_status
from mimflow_train.hardware import named_hardware
from mimflow_train.reproduce.design import Experiment
from mimflow_train.reproduce.session import digest
from mimflow_train.reproduce.variants import PlannedRun, planned_runs
from mimflow_train.teachers import needed_files

__all__ = ["to_text"]

_TINY_SECONDS_A_STEP = 0.7  # benchmarks/default_run.md
_TINY_SECONDS_A_ROW = 40  # scores of one row
_CARD, _SHARE = "A100 80GB", 0.33  # what the paper's run comes to


class _Cost(NamedTuple):
    runs: int
    steps: int
    hours: float


def to_text(base: TrainConfig, experiments: Mapping[str, Experiment], num_seeds: int) -> str:
    """Return a table of all experiments: runs, steps, time, and what is missing.

    Args:
        base: The scale's recipe.
        experiments: By name.
        num_seeds: Runs of each row.
    """
    seconds = _seconds_a_step(base)
    lines, together = [], dict[str, PlannedRun]()
    for name, experiment in experiments.items():
        plan = planned_runs(base, experiment)
        together |= {_key(run): run for run in plan}
        cost = _cost(plan, num_seeds, seconds)
        rows = sum(not each.why_not(base.scale) for each in experiment.variants)
        time = _time(base, cost, rows * num_seeds)
        state = _available(experiment, plan, base.scale)
        lines.append(f"{name:<15}{cost.runs:>5}{cost.steps:>12,}  {time:>15}  {state}")
        lines.append(f"{'':<15}  {experiment.title}")
    cost = _cost(list(together.values()), num_seeds, seconds)
    head = f"{'name':<15}{'runs':>5}{'steps':>12}  {'time':>15}  available at --scale {base.scale}"
    total = f"{'together':<15}{cost.runs:>5}{cost.steps:>12,}  {_time(base, cost, 0):>15}"
    return (
        "\n".join([head, *lines, f"{total}  equal runs are trained once", "", _basis(base)]) + "\n"
    )


def _key(run: PlannedRun) -> str:
    return f"{run.kind} {digest(run.config)}"


def _cost(plan: list[PlannedRun], num_seeds: int, seconds: float) -> _Cost:
    steps = num_seeds * sum(run.until for run in plan)
    return _Cost(num_seeds * len(plan), steps, steps * seconds / 3600)


def _seconds_a_step(base: TrainConfig) -> float:
    if base.scale == "tiny":
        return _TINY_SECONDS_A_STEP
    work = base.global_batch * training_flops(base)
    return work / (_SHARE * 1e12 * named_hardware(_CARD).tflops)


def _time(base: TrainConfig, cost: _Cost, num_rows: int) -> str:
    if base.scale == "tiny":
        return f"{60 * cost.hours + num_rows * _TINY_SECONDS_A_ROW / 60:.0f} min"
    return f"{cost.hours:,.0f} GPU hours"


def _basis(base: TrainConfig) -> str:
    if base.scale == "tiny":
        return (
            f"Minutes: {_TINY_SECONDS_A_STEP} s a step (benchmarks/default_run.md, two CPU cores) "
            f"and {_TINY_SECONDS_A_ROW} s to score a row, assumed; a run that is there takes none."
        )
    return (
        f"GPU hours: operations of the recipe's joint step, on one {_CARD} at {_SHARE:.0%} of its "
        "peak, which is what the paper's run comes to; the same for all rows, without scoring."
    )


def _available(experiment: Experiment, plan: list[PlannedRun], scale: str) -> str:
    reasons = {each.why_not(scale) for each in experiment.variants} - {""}
    files = {
        file.network: weights_status(file)
        for run in plan
        for file in needed_files(run.config, decoder_phase=run.until > run.config.steps)
    }
    wanted = [name for name, status in files.items() if not status.startswith("in ")]
    parts = [f"needs weights of {', '.join(wanted)}"] if wanted else []
    skipped = sum(bool(each.why_not(scale)) for each in experiment.variants)
    if reasons:
        parts.append(f"{skipped} of {len(experiment.variants)} rows not")
    return "; ".join(parts) or "yes"
