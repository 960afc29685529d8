"""Runs the training loop under Ray Train; the only module that imports Ray."""

import contextlib
import dataclasses
import functools
import gc
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Ray reads this when it is imported. Its uv hook would build a second environment for the workers
# and fails outside the workspace root; the workers share this interpreter instead.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import ray
import ray.train
import torch
import torch.distributed as dist
from ray._private import services
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchTrainer, get_device

from genmetrics import GenmetricsError
from mimflow_train import errors
from mimflow_train.config import TrainConfig
from mimflow_train.config.file import from_dict, to_dict
from mimflow_train.device.machine import count_cores
from mimflow_train.engine.context import Place, RayContext, leave_spare_workers
from mimflow_train.engine.driver import (
    BEGAN_FILE,
    FAILURE_FILE,
    RAY_FOLDER,
    STOP_FILE,
    watch,
)
from mimflow_train.engine.launch import Launch
from mimflow_train.engine.processes import descendants, kill
from mimflow_train.engine.stop import StopRequest
from mimflow_train.engine.workers import Workers, handed_on, usable_workers
from mimflow_train.failures import ended
from mimflow_train.plan import Plan
from mimflow_train.run import train_run
from mimflow_train.storage.run_folder import steps_done
from mimflow_train.telemetry.console import said_to, say
from mimflow_train.telemetry.run_log import RunLog

__all__ = ["join_cluster", "run_ray"]

_STARTS_FILE = "starts"  # a line for each: the step of the checkpoint
_MARK_FILE = "mark"  # of this launch; nodes that do not find it have another folder
_RESIZE_SECONDS = 60.0
_STARTS = 8  # in a row from one checkpoint; one that a joining machine causes counts too


def join_cluster(address: str) -> dict[str, float]:
    """Connect to a running cluster until :func:`run_ray` ends.

    Args:
        address: ``HOST:PORT`` of its head, or ``auto`` for RAY_ADDRESS or a cluster that has a
            node on this machine.

    Returns:
        What the cluster has, such as ``{"CPU": 16.0, "GPU": 8.0}``.

    Raises:
        ConfigError: If no cluster answers there.
    """
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"env_vars": handed_on(os.environ)},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise errors.ConfigError(
            f"Expected a Ray cluster at {address}, one of its nodes on this machine; got: {first} "
            "Start a node here with ray start --address=HOST:PORT, or leave --ray-address out."
        ) from error
    return dict(ray.cluster_resources())


def run_ray(config: TrainConfig, run_dir: Path, launch: Launch, plan: Plan) -> int | None:
    """Train on several devices, as :meth:`Launch.train` says."""
    others = descendants()
    # Ray would take its own record of an earlier launch for the state of this one.
    shutil.rmtree(run_dir / RAY_FOLDER, ignore_errors=True)
    (run_dir / RAY_FOLDER).mkdir(exist_ok=True)
    for each in (BEGAN_FILE, FAILURE_FILE, STOP_FILE, _STARTS_FILE):
        (run_dir / RAY_FOLDER / each).unlink(missing_ok=True)
    if launch.address is None:
        _start_cluster(launch.workers)
    elif not ray.is_initialized():
        join_cluster(launch.address)
    trainer = _trainer(config, run_dir, launch, plan)
    # Some of Ray's processes outlive their driver by half a minute. After a second signal they end
    # in place of a shutdown, in which the thread that waits for the job would end this process.
    stop = StopRequest(before_exit=lambda: kill(descendants() - others))
    try:
        with stop.listening():
            outcome = watch(trainer.fit, run_dir, stop, plan.until)
    finally:
        rays = descendants() - others
        ray.shutdown()
        kill(rays)
    if outcome["status"] == "failed":
        raise errors.WorkerError(outcome["message"], int(outcome["code"]))
    return stop.received if outcome["status"] == "stopped" else None


def _start_cluster(workers: Workers) -> None:
    with _in_another_group():
        ray.init(
            address="local",
            num_cpus=max(count_cores(), workers.most),
            log_to_driver=False,
            logging_level="ERROR",
            include_dashboard=False,
        )


@contextlib.contextmanager
def _in_another_group() -> Iterator[None]:
    """Let each of Ray's processes that start in a block have a process group of its own.

    A signal to this process's whole group, such as that of `timeout`, would end them while the
    workers save. Ray shields them from Ctrl-C alone.
    """
    popen = services.ConsolePopen
    services.ConsolePopen = functools.partial(popen, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = popen


def _trainer(config: TrainConfig, run_dir: Path, launch: Launch, plan: Plan) -> TorchTrainer:
    """Return the job, and leave in the run folder what its workers know it by."""
    workers, use_gpu = launch.workers, launch.device == "cuda"
    # Right after a machine has died Ray still counts its devices; a range soon counts anew.
    seconds = "120" if workers.is_range else "300"
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", seconds)
    mark, threads = uuid.uuid4().hex, os.environ.get("OMP_NUM_THREADS", "")
    (run_dir / RAY_FOLDER / _MARK_FILE).write_text(mark)
    return TorchTrainer(
        _work,
        train_loop_config={
            "config": to_dict(config),
            "run_dir": str(run_dir),
            "mark": mark,
            "plan": dataclasses.asdict(plan),
            "least": workers.least,
            "is_range": workers.is_range,
            "threads": int(threads) if threads.isdecimal() else 0,
        },
        scaling_config=ScalingConfig(
            num_workers=tuple(workers) if workers.is_range else workers.most,
            elastic_resize_monitor_interval_s=_RESIZE_SECONDS,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": 1, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(
            name=RAY_FOLDER,
            storage_path=str(run_dir),
            failure_config=FailureConfig(max_failures=-1),  # _count_start has the limit
            logging_config=LoggingConfig(log_level="ERROR"),
            callbacks=[_Witness(run_dir / RAY_FOLDER / "ray.words")],
        ),
    )


class _Witness(ray.train.UserCallback):  # type: ignore[misc]
    """Says, in a process of Ray's own, why workers have ended, and ends a run with a mistake."""

    def __init__(self, words: Path) -> None:
        self._words, self._told = words, ""

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        line = ended(worker_exceptions)
        if line and line != self._told:  # Ray may ask several times before all have ended
            with said_to(self._words):
                say(line)
        self._told = line
        for error in worker_exceptions.values():
            if isinstance(error, errors.MimflowError | GenmetricsError):
                raise error  # Ray restarts what workers raise, and gives up on this


def _work(options: dict[str, Any]) -> dict[str, str]:
    """Train as one worker.

    A user's mistake met by one rank must end all of them. That rank leaves a note for the driver
    and raises, upon which `_Witness` ends the run; should Ray have started anew before it told of
    that rank, every rank reads the note.
    """
    here = get_context()
    share_of_cores = max(1, count_cores() // here.get_local_world_size())
    torch.set_num_threads(options["threads"] or share_of_cores)
    run_dir = Path(options["run_dir"])
    note = run_dir / RAY_FOLDER / FAILURE_FILE
    try:
        if here.get_world_rank() == 0 and not note.exists():
            _count_start(run_dir)  # before the workers meet, which may be what fails
        apart = _nodes_without(run_dir, options["mark"])
        if apart:
            return _failure(
                errors.StorageError(
                    f"Expected the run folder {run_dir} on storage that all nodes share; "
                    f"{', '.join(apart)} did not find it. Give --out on a shared file system."
                )
            )
        if note.exists():
            failure: dict[str, str] = json.loads(note.read_text())
            return failure
        with said_to(run_dir / RAY_FOLDER / f"{here.get_world_rank()}.words"):
            return _train(options, run_dir)
    except (errors.MimflowError, GenmetricsError) as error:
        failure = _failure(error)
        if here.get_world_size() == 1:
            return failure
        whole = note.with_suffix(f".{here.get_world_rank()}")
        with contextlib.suppress(OSError):  # a disk that is full may be what it is about
            whole.write_text(json.dumps(failure))
            whole.replace(note)  # so that no reader meets half of it
        raise


def _failure(error: errors.MimflowError | GenmetricsError) -> dict[str, str]:
    return {"status": "failed", "code": str(error.exit_code), "message": str(error)}


def _train(options: dict[str, Any], run_dir: Path) -> dict[str, str]:
    """Train in the run folder; a machine that is about to go is a reason to save, not to end."""
    config = from_dict(TrainConfig, options["config"])
    plan = Plan(**options["plan"])
    rank, started = get_context().get_world_rank(), get_context().get_world_size()
    count = usable_workers(started, config.global_batch, config.micro_batch)
    if count < options["least"]:
        raise errors.ConfigError(
            f"Expected {started} workers to share {config.global_batch} images evenly, in "
            f"micro-batches of {config.micro_batch}; at most {count} can. Change --workers."
        )
    if rank == 0:
        with contextlib.suppress(OSError):
            (run_dir / RAY_FOLDER / BEGAN_FILE).touch()
        if len(_starts(run_dir)) > 1:
            say("All workers have started anew, from the newest checkpoint.")
    if rank == 0 and options["is_range"]:
        spare = f"; {started - count} more wait, as they cannot share them evenly" * (
            count < started
        )
        say(f"{count} worker(s) share {config.global_batch} images{spare}.")
    if count < started:
        leave_spare_workers(rank, count, get_device())
    if rank >= count:
        return {"status": "spare"}
    place = Place(rank, count, get_device())
    stop_file = run_dir / RAY_FOLDER / STOP_FILE
    # The question to Ray waits for all workers, so it is not asked where some are spare.
    notice = _preemption if count == started else lambda: None
    with contextlib.closing(RunLog(config, run_dir, plan, shown=False)) as run_log:
        context = RayContext(place, run_log.write, stop_file, notice=notice)
        step = train_run(context, config, run_dir, plan, run_log).step
        while context.stopped_to_save() and step < plan.until:
            gc.collect()  # so that two states are never on the device
            step = train_run(context, config, run_dir, plan, run_log).step
    return {"status": "done" if step >= plan.until else "stopped"}


def _starts(run_dir: Path) -> list[str]:
    """Return the steps from which workers have started in this launch."""
    starts = run_dir / RAY_FOLDER / _STARTS_FILE
    return starts.read_text().split() if starts.exists() else []


def _count_start(run_dir: Path) -> None:
    """Note that workers start, which they may not for ever from one checkpoint.

    Raises:
        RetriesError: If there was none newer after as many starts as are allowed.
    """
    done = str(steps_done(run_dir))
    if _starts(run_dir)[-_STARTS:] == [done] * _STARTS:
        raise errors.RetriesError(
            f"Expected the workers to come past step {done}; they have ended {_STARTS} times "
            "before another checkpoint was saved. What they said of it is above; run the same "
            "command again when that is put right."
        )
    starts = run_dir / RAY_FOLDER / _STARTS_FILE
    with contextlib.suppress(OSError), starts.open("a") as file:  # a node may not see the folder
        file.write(f"{done}\n")


def _nodes_without(run_dir: Path, mark: str) -> list[str]:
    """Return the nodes that do not see this launch's mark in the run folder."""
    path = run_dir / RAY_FOLDER / _MARK_FILE
    seen = path.exists() and path.read_text() == mark
    nodes = [None if seen else ray.util.get_node_ip_address()]
    if get_context().get_world_size() > 1:
        nodes = nodes * get_context().get_world_size()
        dist.all_gather_object(nodes, nodes[0])
    return sorted({node for node in nodes if node is not None})


def _preemption() -> object | None:
    """Return what Ray knows of a machine that is about to go; its API for that is in alpha."""
    ask = getattr(ray.train, "get_preemption_info", None)
    return None if ask is None else ask()
