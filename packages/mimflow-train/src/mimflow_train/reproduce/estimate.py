"""What experiments would cost at a scale, and what they still lack, before anything is trained."""

from collections.abc import Mapping
from typing import NamedTuple

from mimflow_train.device.costs import training_flops
from mimflow_train.device.hardware import named_hardware
from mimflow_train.reproduce.design import Experiment
from mimflow_train.reproduce.needs import missing_networks, unfinished
from mimflow_train.reproduce.session import Session, digest
from mimflow_train.reproduce.variants import (
    PlannedRun,
    longest,
    planned_runs,
    row_guidance,
    variant_config,
)
from mimflow_train.telemetry.console import duration

__all__ = ["left_text", "to_text"]

_CARD, _SHARE = "A100 80GB", 0.34  # Table 4, read as eight A100


class _Pace(NamedTuple):
    """Seconds of a step, and of what is done with a row that is trained."""

    step: float
    row: float


_TINY = _Pace(0.7, 40)  # benchmarks/default_run.md; the second is assumed
_QUICK = _Pace(0.2, 2.0)  # together the 124 s that `all --quick` took on a slow core with AVX2


class _Cost(NamedTuple):
    runs: int
    steps: int
    rows: int


def to_text(session: Session, experiments: Mapping[str, Experiment]) -> str:
    """Return a table of all experiments: runs, steps, time, and what is missing.

    Args:
        session: The recipe, the seeds and the feature network.
        experiments: By name.
    """
    pace, scale, num_seeds = _pace(session), session.base.scale, len(session.seeds)
    lines, together, judged = [], list[PlannedRun](), set[str]()
    for name, experiment in experiments.items():
        plan = planned_runs(session.base, experiment, session.settings)
        rows = _rows(session, experiment)
        together += plan
        judged |= rows
        cost = _cost(plan, num_seeds, len(rows))
        state = _available(session, experiment, plan)
        lines.append(_line(name, cost, _time(session, cost, pace)) + f"  {state}")
        lines.append(f"{'':<15}  {experiment.title}")
    cost = _cost(longest(together), num_seeds, len(judged))
    head = f"{'name':<15}{'runs':>5}{'steps':>12}  {'time':>15}  available at --scale {scale}"
    total = f"{_line('together', cost, _time(session, cost, pace))}  equal runs are trained once"
    return "\n".join([head, *lines, total, "", _basis(session)]) + "\n"


def left_text(session: Session, experiment: Experiment) -> str:
    """Return what an experiment would still take, in one line.

    Args:
        session: The recipe, the seeds, and where runs lie.
        experiment: What is to be shown.
    """
    if not experiment.trains:
        return "Nothing is trained for it, which takes seconds to minutes"
    left = unfinished(session, experiment)
    rows = len(session.seeds) * len(_rows(session, experiment))
    cost = _Cost(len(left), sum(each.steps for each in left), rows)
    time = _time(session, cost, _pace(session))
    what = f"{cost.runs} run(s) left to train, {cost.steps:,} steps" if left else "All is trained"
    return f"{what}; with {rows} row(s) to judge about {time}, if none is judged yet"


def _rows(session: Session, experiment: Experiment) -> set[str]:
    """Return a key for each row that is run; rows of scores that are equal have equal keys."""
    base, keys = session.base, set()
    for each in experiment.variants:
        if each.why_not(base.scale):
            continue
        config = variant_config(base, experiment, each, base.seed, session.settings)
        scored = [config, each.decoder_phase, row_guidance(each, config)]
        own = [experiment.title, each.label]
        keys.add(digest(scored if experiment.measure == "scores" else own))
    return keys


def _cost(plan: list[PlannedRun], num_seeds: int, rows: int) -> _Cost:
    steps = num_seeds * sum(run.until for run in plan)
    return _Cost(num_seeds * len(plan), steps, num_seeds * rows)


def _line(name: str, cost: _Cost, time: str) -> str:
    return f"{name:<15}{cost.runs:>5}{cost.steps:>12,}  {time:>15}"


def _pace(session: Session) -> _Pace:
    if session.base.scale == "tiny":
        return _QUICK if session.quick else _TINY
    work = session.base.global_batch * training_flops(session.base)
    return _Pace(work / (_SHARE * 1e12 * named_hardware(_CARD).tflops), 0)


def _time(session: Session, cost: _Cost, pace: _Pace) -> str:
    seconds = cost.steps * pace.step + cost.rows * pace.row
    if session.base.scale != "tiny":
        return f"{seconds / 3600:,.0f} GPU hours"
    return duration(seconds) if session.quick else f"{seconds / 60:.0f} min"


def _basis(session: Session) -> str:
    if session.quick:
        return (
            f"{_QUICK.step} s a step and {_QUICK.row} s a row, which come to what a slow CPU core "
            "with AVX2 took for all of it."
        )
    if session.base.scale == "tiny":
        return (
            f"Minutes: {_TINY.step} s a step (benchmarks/default_run.md, two CPU cores) "
            f"and {_TINY.row} s to score a row, assumed; a run that is there takes none."
        )
    return (
        f"GPU hours: operations of the recipe's joint step, on one {_CARD} at {_SHARE:.0%} of its "
        "peak, which is what the paper's run comes to; the same for all rows, without scoring."
    )


def _available(session: Session, experiment: Experiment, plan: list[PlannedRun]) -> str:
    reasons = [each.why_not(session.base.scale) for each in experiment.variants]
    skipped = sum(map(bool, reasons))
    wanted = missing_networks(session, experiment, plan)
    parts = [f"needs weights of {', '.join(wanted)}"] if wanted else []
    if skipped:
        parts.append(f"{skipped} of {len(reasons)} rows not")
    return "; ".join(parts) or "yes"
