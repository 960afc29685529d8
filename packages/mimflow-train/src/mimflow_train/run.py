"""From a configuration to a trained run folder, whoever started the workers."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from genmetrics import keep_freed_memory
from mimflow_train.config import TrainConfig
from mimflow_train.data.images import LabelledImages
from mimflow_train.data.source import load_data
from mimflow_train.engine.agreement import require_same_run, told_by_rank_0
from mimflow_train.engine.context import Context, LocalContext, TorchrunContext
from mimflow_train.engine.sharding import shards_weights
from mimflow_train.engine.stop import StopRequest
from mimflow_train.errors import DivergedError, StorageError
from mimflow_train.evaluation.on_the_way import HeldOut
from mimflow_train.failures import Skipped, StepError, is_lost_peer, note_failure, note_skipped
from mimflow_train.loop import STOP_AFTER_SKIPS, Calls, train
from mimflow_train.plan import Plan
from mimflow_train.state import DecoderState, State, TrainState
from mimflow_train.storage.arithmetic import changed_arithmetic
from mimflow_train.storage.checkpoint import latest_checkpoint, load_state, manifest_of
from mimflow_train.storage.run_folder import forget_end, steps_done
from mimflow_train.storage.saver import Saver
from mimflow_train.telemetry.console import say
from mimflow_train.telemetry.run_log import RunLog
from mimflow_train.telemetry.stall import StallWatch

__all__ = ["run_local", "run_torchrun", "train_phases", "train_run"]


def run_local(config: TrainConfig, run_dir: Path, device: torch.device, plan: Plan) -> int | None:
    """Train in this process until done or asked to stop.

    On a CPU the process keeps the memory that is freed from then on, see
    :func:`genmetrics.keep_freed_memory`; so does every worker.

    Args:
        config: The run.
        run_dir: The run folder.
        device: Where to train.
        plan: How far to go and what to keep.

    Returns:
        The signal that ended the run early, or None.
    """
    stop = StopRequest()
    with stop.listening(), contextlib.closing(RunLog(config, run_dir, plan)) as run_log:
        context = LocalContext(device, run_log.write, stop)
        state = train_run(context, config, run_dir, plan, run_log)
    return stop.received if state.step < plan.until else None


def run_torchrun(config: TrainConfig, run_dir: Path, kind: str, plan: Plan) -> int | None:
    """Train as one of the workers that torchrun started, as :func:`run_local` does alone.

    Args:
        config: The run.
        run_dir: The run folder, which all workers see.
        kind: ``cpu`` or ``cuda``.
        plan: How far to go and what to keep.

    Returns:
        The signal that ended the run early, or None.
    """
    stop = StopRequest()
    with stop.listening(), contextlib.closing(RunLog(config, run_dir, plan)) as run_log:
        context = TorchrunContext(kind, run_log.write, stop)
        with context.joined():
            state = train_run(context, config, run_dir, plan, run_log)
    return stop.received if state.step < plan.until else None


def train_run(
    context: Context, config: TrainConfig, run_dir: Path, plan: Plan, run_log: RunLog
) -> State:
    """Train a run from where it stands; after a divergence, once more from the last checkpoint.

    Once for each divergence: the next may roll back again if a checkpoint was saved in between.

    Args:
        context: This worker among its peers.
        config: The run.
        run_dir: The run folder.
        plan: How far to go and what to keep.
        run_log: Opened by rank 0 at the step where training starts.

    Returns:
        The state at ``plan.until``, or where the context asked to stop.

    Raises:
        ConfigError: If a worker was given other options than rank 0.
        DataError: If the images are not those of the configuration, or not rank 0's.
        DivergedError: If it diverges again before it has come past what it was rolled back for.
        RetriesError: If one step has failed too often.
    """
    if context.device.type == "cpu":
        keep_freed_memory()
    watch = StallWatch(run_dir, context.rank)
    with watch.looking():
        data = load_data(config, run_dir)
        require_same_run(context, config, plan)
        saver = Saver(config, data, run_dir, plan, writes=context.rank == 0)
        save, skipped = _saving(context, saver), _noting(context, run_dir)
        judge = HeldOut(config, data.held_out, plan)
        calls = Calls(plan.checkpoint_every, save, skipped, watch.stepped, judge)

        def go_on(state: State) -> State:
            watch.stepped(state.step)
            with _leaving_a_trace(context, saver, run_log, state):
                return train_phases(context, state, data, until=plan.until, calls=calls)

        return _with_roll_backs(context, config, run_dir, plan.until, go_on)


def _with_roll_backs(
    context: Context,
    config: TrainConfig,
    run_dir: Path,
    until: int,
    go_on: Callable[[State], State],
) -> State:
    """Go on from the newest checkpoint, and after a divergence with other masks and noise."""
    state = _restored(context, config, run_dir, until)
    while True:
        try:
            return go_on(state)
        except DivergedError as error:
            before = state.draw_stream
            if before and _saved_step(context, run_dir) < before + STOP_AFTER_SKIPS:
                raise
            stream = max(1, error.step)
            if context.rank == 0:
                say(f"{error} Rolling back to the last checkpoint, with other masks and noise.")
        del state  # so that two states are never on the device
        gc.collect()
        state = _restored(context, config, run_dir, until)
        state.draw_stream, state.skips = stream, 0


def train_phases(
    context: Context,
    state: State,
    data: LabelledImages,
    *,
    until: int,
    calls: Calls,
) -> State:
    """Train what is left of the joint phase, then of the decoder phase.

    Args:
        context: This worker among its peers.
        state: Where to start; that of a joint phase which comes to its end is released.
        data: Images; only ``data.train`` is looked at.
        until: Step to end at.
        calls: Who hears of saves, of skipped steps and of steps that have ended.

    Returns:
        The state at ``until``, or where the context asked to stop.
    """
    config = state.config
    if state.step >= until:
        return state
    train(context, config, data, state=state, calls=calls)
    if isinstance(state, TrainState) and config.steps == state.step < until:
        joint, state = state, DecoderState.after(state, context.device)
        joint.release()
        train(context, config, data, state=state, calls=calls)
    return state


def _restored(context: Context, config: TrainConfig, run_dir: Path, until: int) -> State:
    """Return the state of the newest good checkpoint, or a new one if the run has none."""
    folder, manifest = _newest_checkpoint(context, run_dir, until)
    device = context.device
    changed = changed_arithmetic(manifest, device, config.precision)
    if folder and changed and context.rank == 0 and 0 < manifest["step"] < until:
        say(f"Checkpoint {folder.name} was {changed}, and is no longer the same bits.")
    is_joint = manifest.get("phase", TrainState.phase) == TrainState.phase
    if shards_weights(config, context.world_size) and is_joint:
        device = torch.device("cpu")  # one GPU may not hold it before it is sharded
    return TrainState(config, device) if folder is None else load_state(folder, config, device)


def _saved_step(context: Context, run_dir: Path) -> int:
    """Return the step of the newest checkpoint, as rank 0 sees it, which has written it."""
    return told_by_rank_0(context, lambda: steps_done(run_dir))


def _newest_checkpoint(
    context: Context, run_dir: Path, until: int
) -> tuple[Path | None, dict[str, Any]]:
    """Return it and what it says of itself, as rank 0 sees it, or None and nothing.

    What the run's end left goes if there is more to train.
    """

    def look() -> tuple[Path | None, dict[str, Any]]:
        folder = latest_checkpoint(run_dir, say, set_aside=True)
        manifest = {} if folder is None else manifest_of(folder)
        if manifest.get("step", 0) < until:  # also if the last was damaged
            forget_end(run_dir)
        return folder, manifest

    return told_by_rank_0(context, look)


@contextmanager
def _leaving_a_trace(
    context: Context, saver: Saver, run_log: RunLog, state: State
) -> Iterator[None]:
    """Report from the state's step on; at the end the newest checkpoint is whole, come what may."""
    if context.rank == 0:
        run_log.begin(state.step)
        saver.begin(state.step)
    try:
        try:
            yield
        except StepError as error:
            with contextlib.suppress(OSError):  # which may raise another in its place
                note_failure(saver.run_dir, context.rank, error)
            raise
    except Exception:
        with _warning():  # in place of the error that ended it, one worker alone would meet this
            saver.wait()
        raise
    try:
        saver.wait()
    finally:  # a machine whose workers had left would have the others ended amid it
        try:
            _meet(context)
        except Exception as error:
            if not is_lost_peer(error):
                raise
            say(f"Warning: another worker has ended while rank {context.rank} waited to leave.")


@contextmanager
def _warning() -> Iterator[None]:
    """Say what the disk did not take, and go on."""
    try:
        yield
    except StorageError as error:
        say(f"Warning: {error}")


def _noting(context: Context, run_dir: Path) -> Callable[[Skipped], None]:
    """Return a function that writes down a skipped step, and says so the first time."""
    said = context.rank != 0

    def skipped(step: Skipped) -> None:
        nonlocal said
        try:
            path = note_skipped(run_dir, context.rank, step)
        except OSError as error:
            say(f"Warning: step {step.step} was skipped and cannot be noted ({error}).")
            return
        if not said:
            say(
                f"Warning: step {step.step} has no finite gradient, which changes nothing; its "
                f"terms and images are in {path}, as those of later ones will be."
            )
        said = True

    return skipped


def _saving(context: Context, saver: Saver) -> Callable[[State], None]:
    """Return a function that saves on rank 0, while the others send their parts and wait."""

    def save(state: State) -> None:
        if saver.writes or state.is_sharded:
            saver(state)
        _meet(context)

    return save


def _meet(context: Context) -> None:
    if context.world_size > 1:
        dist.barrier()
