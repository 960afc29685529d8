"""Runs the training loop under Ray Train; the only module that imports Ray."""

import contextlib
import dataclasses
import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Ray reads this when it is imported. Its uv hook would build a second environment for the workers
# and fails outside the workspace root; the workers share this interpreter instead.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")

import ray
import torch
import torch.distributed as dist
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchTrainer, get_device

from genmetrics import GenmetricsError
from mimflow_train import errors
from mimflow_train.config import TrainConfig
from mimflow_train.config_file import from_dict, to_dict
from mimflow_train.console import Progress
from mimflow_train.context import StopRequest
from mimflow_train.events import follow
from mimflow_train.machine import count_cores
from mimflow_train.plan import Plan
from mimflow_train.reports import Reports
from mimflow_train.run import train_run

__all__ = ["RayContext", "run_ray"]

_RAY_FOLDER = "ray"  # Ray's own files, ours for the length of one launch
_STOP_FILE = "stop-requested"
_FAILURE_FILE = "failure.json"
_POLL_SECONDS = 1.0


class RayContext:
    """One worker of a Ray Train job.

    Args:
        run_dir: The run; its stop file asks all workers to save and end.
        report: Receives the step and its values on rank 0, where the driver reads them.
    """

    def __init__(self, run_dir: Path, report: Callable[[int, Mapping[str, float]], None]) -> None:
        self.rank = get_context().get_world_rank()
        self.world_size = get_context().get_world_size()
        self.device = get_device()
        self._stop_file, self._report = run_dir / _RAY_FOLDER / _STOP_FILE, report

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Publish the values of a step."""
        self._report(step, values)

    def should_stop(self) -> bool:
        """Whether the stop file is there, as rank 0 sees it."""
        answer = torch.tensor(float(self._stop_file.exists()), device=self.device)
        if self.world_size > 1:
            dist.broadcast(answer, src=0)
        return bool(answer)


def run_ray(
    config: TrainConfig,
    run_dir: Path,
    device: str,
    *,
    workers: int,
    plan: Plan,
) -> int | None:
    """Train on several devices until done or asked to stop.

    Args:
        config: The run.
        run_dir: The run folder.
        device: ``cpu`` or ``cuda``.
        workers: Devices.
        plan: How far to go and what to keep.

    Returns:
        The signal that ended the run early, or None.

    Raises:
        MimflowError: If a worker ended with one, or workers kept dying.
    """
    # Ray would take its own record of an earlier launch for the state of this one.
    shutil.rmtree(run_dir / _RAY_FOLDER, ignore_errors=True)
    (run_dir / _RAY_FOLDER).mkdir()
    cores = count_cores()
    ray.init(
        address="local",
        num_cpus=max(cores, workers),
        log_to_driver=False,
        logging_level="ERROR",
        include_dashboard=False,
    )
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "config": to_dict(config),
            "run_dir": str(run_dir),
            "plan": dataclasses.asdict(plan),
            "threads": int(os.environ.get("OMP_NUM_THREADS") or max(1, cores // workers)),
        },
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=device == "cuda",
            resources_per_worker={"CPU": 1, **({"GPU": 1} if device == "cuda" else {})},
        ),
        run_config=RunConfig(
            name=_RAY_FOLDER,
            storage_path=str(run_dir),
            failure_config=FailureConfig(max_failures=3, controller_failure_limit=3),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    stop = StopRequest()
    try:
        with stop.listening():
            outcome = _fit(trainer, run_dir, stop, plan.until)
    finally:
        ray.shutdown()
    if outcome["status"] == "failed":
        raise errors.WorkerError(outcome["message"], int(outcome["code"]))
    return stop.received if outcome["status"] == "stopped" else None


def _fit(trainer: TorchTrainer, run_dir: Path, stop: StopRequest, until: int) -> dict[str, str]:
    """Run the job in a second thread; this one has the signals and the progress."""
    box: dict[str, Any] = {}

    def fit() -> None:
        try:
            box["outcome"] = trainer.fit().return_value
        except Exception as error:  # shown to the user below, whatever it is
            box["error"] = error

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    progress, reports, began = None, follow(run_dir / "metrics.jsonl"), False
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        if stop.received is not None and not began:
            began = True
            (run_dir / _RAY_FOLDER / _STOP_FILE).touch()
        for step, values in next(reports):
            progress = progress or Progress(step, until)
            progress.show(step, values)
    if progress is not None:
        progress.close()
    if "error" in box:
        raise errors.RetriesError(
            f"Expected the workers to finish; Ray Train gave up: {box['error']}. "
            f"What was saved is in {run_dir}; run the same command again."
        )
    outcome: dict[str, str] = box["outcome"]
    return outcome


def _work(options: dict[str, Any]) -> dict[str, str]:
    """Train as one worker.

    A user's mistake met by one rank must end all of them, and Ray restarts what raises. So the
    rank that meets it leaves a note and raises; after the restart every rank reads the note.
    """
    torch.set_num_threads(options["threads"])
    run_dir = Path(options["run_dir"])
    note = run_dir / _RAY_FOLDER / _FAILURE_FILE
    if note.exists():
        failure: dict[str, str] = json.loads(note.read_text())
        return failure
    try:
        config = from_dict(TrainConfig, options["config"])
        plan = Plan(**options["plan"])
        with contextlib.closing(Reports(config, run_dir, plan, shown=False)) as reports:
            context = RayContext(run_dir, reports.write)
            state = train_run(context, config, run_dir, plan, reports)
        return {"status": "done" if state.step >= plan.until else "stopped"}
    except (errors.MimflowError, GenmetricsError) as error:
        failure = {"status": "failed", "code": str(error.exit_code), "message": str(error)}
        note.write_text(json.dumps(failure))
        raise
