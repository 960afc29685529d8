"""Runs the training loop under Ray Train; the only module that imports Ray."""

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Ray reads this when it is imported. Its uv hook would build a second environment for the workers
# and fails outside the workspace root; the workers share this interpreter instead.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")

import ray
import torch
import torch.distributed as dist
from ray.train import (
    Checkpoint,
    CheckpointUploadMode,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    get_context,
)
from ray.train.torch import TorchTrainer, get_device

from genmetrics import GenmetricsError
from mimflow_train import errors
from mimflow_train.checkpoint import latest_checkpoint
from mimflow_train.config import TrainConfig, from_dict, to_dict
from mimflow_train.console import Progress
from mimflow_train.context import StopRequest
from mimflow_train.events import Recorder, follow
from mimflow_train.loop import train
from mimflow_train.run import load_data, restore, save
from mimflow_train.state import TrainState

__all__ = ["RayContext", "run_ray"]

_STOP_FILE = "stop-requested"
_POLL_SECONDS = 1.0


class RayContext:
    """One worker of a Ray Train job.

    Args:
        run_dir: The run; its stop file asks all workers to save and end.
    """

    def __init__(self, run_dir: Path) -> None:
        self.rank = get_context().get_world_rank()
        self.world_size = get_context().get_world_size()
        self.device = get_device()
        self._stop_file = run_dir / _STOP_FILE
        self._recorder = Recorder(run_dir) if self.rank == 0 else None

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step where the driver reads them."""
        if self._recorder is not None:
            self._recorder.write(step, values)

    def should_stop(self) -> bool:
        """Whether the stop file is there, as rank 0 sees it."""
        answer = torch.tensor(float(self._stop_file.exists()), device=self.device)
        if self.world_size > 1:
            dist.broadcast(answer, src=0)
        return bool(answer)


def run_ray(
    config: TrainConfig, run_dir: Path, device: str, workers: int, checkpoint_every: int
) -> int | None:
    """Train on several devices until done or asked to stop.

    Args:
        config: The run.
        run_dir: The run folder.
        device: ``cpu`` or ``cuda``.
        workers: Devices.
        checkpoint_every: Steps between checkpoints.

    Returns:
        The signal that ended the run early, or None.

    Raises:
        MimflowError: If a worker ended with one, or workers kept dying.
    """
    stop = StopRequest()
    stop.install()
    (run_dir / _STOP_FILE).unlink(missing_ok=True)
    cores = len(os.sched_getaffinity(0))
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
            "checkpoint_every": checkpoint_every,
            "threads": max(1, cores // workers),
        },
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=device == "cuda",
            resources_per_worker={"CPU": 1, **({"GPU": 1} if device == "cuda" else {})},
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(run_dir),
            failure_config=FailureConfig(max_failures=3, controller_failure_limit=3),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        outcome = _fit(trainer, config, run_dir, stop)
    finally:
        ray.shutdown()
    if outcome["status"] == "failed":
        raise errors.WorkerError(outcome["message"], int(outcome["code"]))
    return stop.received if outcome["status"] == "stopped" else None


def _fit(
    trainer: TorchTrainer, config: TrainConfig, run_dir: Path, stop: StopRequest
) -> dict[str, str]:
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
            (run_dir / _STOP_FILE).touch()
        for step, values in next(reports):
            progress = progress or Progress(step, config.steps)
            progress.show(step, values)
    if progress is not None:
        progress.close()
    if "error" in box:
        raise errors.RetriesError(
            f"Expected the workers to finish; Ray Train gave up: {box['error']}. "
            f"The newest checkpoint is {latest_checkpoint(run_dir)}; run the same command again."
        )
    outcome: dict[str, str] = box["outcome"]
    return outcome


def _work(options: dict[str, Any]) -> dict[str, str]:
    """Train as one worker; a user's mistake is returned, since Ray would retry an exception."""
    torch.set_num_threads(options["threads"])
    config: TrainConfig = from_dict(TrainConfig, options["config"])
    run_dir = Path(options["run_dir"])
    context = RayContext(run_dir)
    try:
        data = load_data(config, run_dir if context.rank == 0 else None)
        state = restore(config, run_dir, context.device)

        def save_and_report(state: TrainState) -> None:
            checkpoint = None
            if context.rank == 0:
                checkpoint = Checkpoint.from_directory(str(save(state, config, data, run_dir)))
            ray.train.report(
                {"step": state.step},
                checkpoint=checkpoint,
                checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
            )

        train(
            context,
            config,
            data,
            state=state,
            save_every=options["checkpoint_every"],
            save=save_and_report,
        )
    except (errors.MimflowError, GenmetricsError) as error:
        return {"status": "failed", "code": str(error.exit_code), "message": str(error)}
    return {"status": "done" if state.step == config.steps else "stopped"}
