"""A Ray worker and its driver without Ray between them: notices of preemption, steps that fail."""

import dataclasses
import json
import pickle
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from mimflow_train import loop, run
from mimflow_train.config.file import to_dict
from mimflow_train.engine import context as context_module
from mimflow_train.engine import driver
from mimflow_train.engine.launch import Launch
from mimflow_train.engine.stop import StopRequest
from mimflow_train.engine.workers import Workers
from mimflow_train.errors import (
    ConfigError,
    DivergedError,
    PeerError,
    RetriesError,
    StorageError,
    WorkerError,
)
from mimflow_train.joint_phase import JointPhase
from mimflow_train.plan import Plan
from mimflow_train.storage.checkpoint import fingerprint


@pytest.fixture
def launch_ray(monkeypatch, data):
    from mimflow_train.engine import launch_ray

    place = SimpleNamespace(
        get_world_rank=lambda: 0, get_world_size=lambda: 1, get_local_world_size=lambda: 1
    )
    monkeypatch.setattr(launch_ray, "get_context", lambda: place)
    monkeypatch.setattr(launch_ray, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(launch_ray, "_preemption", lambda: None)
    monkeypatch.setattr(run, "load_data", lambda *_: data)
    monkeypatch.setattr(loop, "_REPORT_EVERY", 1)
    return launch_ray


@pytest.fixture
def options(config, tmp_path):
    """Return a function that makes the options of a worker in a new run folder."""

    def function(name):
        run_dir = tmp_path / name
        (run_dir / "ray").mkdir(parents=True)
        (run_dir / "ray" / "mark").write_text("7")
        return {
            "config": to_dict(dataclasses.replace(config, steps=7)),
            "run_dir": str(run_dir),
            "mark": "7",
            "plan": dataclasses.asdict(Plan(until=7, checkpoint_every=100)),
            "least": 1,
            "is_range": False,
            "threads": 1,
        }

    return function


def losses(run_dir):
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines]


def test_a_notice_saves_once_and_changes_no_bit(launch_ray, options, tmp_path, monkeypatch):
    assert launch_ray._work(options("calm")) == {"status": "done"}
    monkeypatch.setattr(context_module, "_NOTICE_SECONDS", 0.0)
    asked = iter([None, None, {"deadline_ms": 17}])
    monkeypatch.setattr(launch_ray, "_preemption", lambda: next(asked))
    assert launch_ray._work(options("noticed")) == {"status": "done"}
    calm, noticed = tmp_path / "calm", tmp_path / "noticed"
    assert losses(calm) == losses(noticed)
    names = [path.name for path in sorted((noticed / "checkpoints").iterdir())]
    assert names == ["step_00000003", "step_00000007"]
    first, second = (fingerprint(each / "checkpoints" / names[-1]) for each in (calm, noticed))
    assert first == second


def test_workers_of_a_joined_cluster_look_for_weights_where_the_driver_does(
    launch_ray, monkeypatch
):
    given = {}
    monkeypatch.setattr(launch_ray.ray, "init", lambda **options: given.update(options))
    monkeypatch.setattr(launch_ray.ray, "cluster_resources", lambda: {"CPU": 2.0})
    for name in ("MIMFLOW_WEIGHTS", "MIMFLOW_OFFLINE", "HF_HOME", "HF_TOKEN", "UNRELATED"):
        monkeypatch.setenv(name, f"value of {name}")
    assert launch_ray.join_cluster("auto") == {"CPU": 2.0}
    variables = given["runtime_env"]["env_vars"]
    assert {"MIMFLOW_WEIGHTS", "MIMFLOW_OFFLINE", "HF_HOME"} <= variables.keys()
    assert variables["HF_HOME"] == "value of HF_HOME"
    assert not {"HF_TOKEN", "UNRELATED"} & variables.keys()


def test_a_folder_that_is_not_shared_is_an_outcome(launch_ray, options):
    outcome = launch_ray._work({**options("run"), "mark": "8"})
    assert outcome["status"] == "failed"
    assert outcome["code"] == "6"
    assert "on storage that all nodes share" in outcome["message"]


@pytest.fixture
def sleeper():
    """Return a function that starts a process of a minute."""
    started = []

    def start():
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        started.append(subprocess.Popen(command))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("by_signal", [False, True], ids=["end", "second Ctrl-C"])
def test_what_outlives_rays_end_is_killed_and_nothing_else(
    launch_ray, config, tmp_path, monkeypatch, sleeper, by_signal
):
    users, rays = sleeper(), []

    def fit(_job, _run_dir, stop, _until):
        if by_signal:  # what the second one does before it ends the process
            stop._before_exit()
            assert rays[0].wait(10) == -signal.SIGKILL
        return {"status": "done"}

    monkeypatch.setattr(launch_ray, "_start_cluster", lambda _: rays.append(sleeper()))
    monkeypatch.setattr(launch_ray, "watch", fit)
    monkeypatch.setattr(launch_ray.ray, "shutdown", lambda: None)
    plan, launch = Plan(until=7, checkpoint_every=100), Launch("ray", "cpu", Workers(2, 2))
    assert launch_ray.run_ray(config, tmp_path, launch, plan) is None
    assert rays[0].wait(10) == -signal.SIGKILL
    assert users.poll() is None


def test_an_api_that_is_gone_is_no_notice(launch_ray, monkeypatch):
    monkeypatch.undo()
    monkeypatch.delattr(launch_ray.ray.train, "get_preemption_info")
    assert launch_ray._preemption() is None


def test_a_step_that_always_fails_is_started_three_times(
    launch_ray, options, tmp_path, monkeypatch
):
    starts = []

    def broken(*_):
        starts.append(len(starts) + 1)
        raise RuntimeError(f"start {starts[-1]}")

    def fit():  # as Ray does after an error
        for _ in range(4):
            try:
                return SimpleNamespace(return_value=launch_ray._work(given))
            except Exception as error:
                last = error
        raise last

    given = options("run")
    monkeypatch.setattr(JointPhase, "gradients", broken)
    outcome = driver.watch(fit, tmp_path / "run", StopRequest(), 7)
    assert starts == [1, 2, 3]
    assert outcome["code"] == "7"
    path = tmp_path / "run" / "errors" / "step_00000000.rank_0.txt"
    assert f"The tracebacks, the first on top, are in {path}" in outcome["message"]
    assert path.read_text().index("start 1") < path.read_text().index("start 3")


@pytest.mark.parametrize(
    ("is_range", "started", "words"),
    [
        (True, 3, "2 worker(s) share 8 images; 1 more wait, as they cannot share them evenly.\n"),
        (True, 4, "4 worker(s) share 8 images.\n"),
        (False, 4, None),
    ],
)
def test_a_range_of_workers_says_how_many_train(
    launch_ray, options, tmp_path, monkeypatch, is_range, started, words
):
    place = SimpleNamespace(
        get_world_rank=lambda: 0,
        get_world_size=lambda: started,
        get_local_world_size=lambda: started,
    )
    monkeypatch.setattr(launch_ray, "get_context", lambda: place)
    monkeypatch.setattr(launch_ray, "_nodes_without", lambda *_: [])
    monkeypatch.setattr(launch_ray, "leave_spare_workers", lambda *_: None)
    context = SimpleNamespace(stopped_to_save=lambda: False)
    monkeypatch.setattr(launch_ray, "RayContext", lambda *_, **__: context)
    monkeypatch.setattr(launch_ray, "train_run", lambda *_: SimpleNamespace(step=7))
    assert launch_ray._work({**options("run"), "is_range": is_range}) == {"status": "done"}
    path = tmp_path / "run" / "ray" / "0.words"
    assert (path.read_text() if path.exists() else None) == words


def test_a_mistake_of_the_only_worker_is_its_outcome_at_once(
    launch_ray, options, tmp_path, monkeypatch
):
    def mistaken(*_):
        raise DivergedError("Expected finite gradients.", 7)

    monkeypatch.setattr(launch_ray, "train_run", mistaken)
    outcome = launch_ray._work(options("run"))
    assert outcome == {"status": "failed", "code": "5", "message": "Expected finite gradients."}


def test_a_mistake_is_told_also_when_ray_starts_nobody_any_more(launch_ray, tmp_path):
    failure = {"status": "failed", "code": "5", "message": "Expected finite gradients."}
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "failure.json").write_text(json.dumps(failure))

    def fit():
        raise RuntimeError("four times")

    assert driver.watch(fit, tmp_path, StopRequest(), 7) == failure


def finished_after(seconds):
    def job():
        time.sleep(seconds)
        return SimpleNamespace(return_value={"status": "done"})

    return job


def test_a_wait_for_devices_is_said_once_and_a_signal_ends_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(driver, "_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(driver, "_POLL_SECONDS", 0.01)
    (tmp_path / "ray").mkdir()
    driver.watch(finished_after(0.3), tmp_path, StopRequest(), 7)
    assert capsys.readouterr().err == (
        "No worker has begun yet: they start slowly, or wait for free devices. Ctrl-C ends this.\n"
    )
    stop = StopRequest()
    monkeypatch.setattr(stop, "end", lambda: ended.append(stop.received))
    stop.received, ended = signal.SIGTERM, []
    driver.watch(finished_after(0.1), tmp_path, stop, 7)
    assert ended == [signal.SIGTERM]
    assert "No worker has begun; " in capsys.readouterr().err


def test_workers_that_have_begun_are_asked_to_save(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(driver, "_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(driver, "_QUIET_SECONDS", 0.05)
    monkeypatch.setattr(driver, "_POLL_SECONDS", 0.01)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "began").touch()
    stop = StopRequest()
    stop.received = signal.SIGTERM
    driver.watch(finished_after(0.3), tmp_path, stop, 7)
    assert (tmp_path / "ray" / "stop-requested").exists()
    assert capsys.readouterr().err.startswith("No worker has told anything for ")


def test_threads_that_are_no_number_are_the_share_of_the_cores(
    launch_ray, config, tmp_path, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    (tmp_path / "ray").mkdir()
    plan = Plan(until=7, checkpoint_every=100)
    trainer = launch_ray._trainer(config, tmp_path, Launch("ray", "cpu", Workers(2, 2)), plan)
    assert trainer.train_loop_config["threads"] == 0


def test_workers_that_start_again_say_so(launch_ray, options, tmp_path):
    given = options("run")
    words = tmp_path / "run" / "ray" / "0.words"
    assert launch_ray._work(given) == {"status": "done"}
    assert not words.exists()
    assert launch_ray._work(given) == {"status": "done"}
    assert words.read_text() == "All workers have started anew, from the newest checkpoint.\n"


def test_workers_that_never_come_further_are_not_started_for_ever(launch_ray, tmp_path, capsys):
    (tmp_path / "ray").mkdir()
    (tmp_path / "checkpoints" / "step_00000002").mkdir(parents=True)
    for _ in range(5):
        launch_ray._count_start(tmp_path)
    (tmp_path / "checkpoints" / "step_00000004").mkdir()
    for _ in range(8):
        launch_ray._count_start(tmp_path)
    with pytest.raises(RetriesError, match="past step 4; they have ended 8 times before another"):
        launch_ray._count_start(tmp_path)


def test_workers_that_cannot_meet_are_not_started_for_ever(
    launch_ray, options, tmp_path, monkeypatch
):
    def apart(*_):
        raise dist.DistBackendError("NCCL error")

    monkeypatch.setattr(launch_ray, "_nodes_without", apart)
    given = options("run")
    for _ in range(8):
        with pytest.raises(dist.DistBackendError):
            launch_ray._work(given)
    outcome = launch_ray._work(given)
    assert outcome["code"] == "7"
    assert "past step 0; they have ended 8 times before another" in outcome["message"]


def test_a_mistake_of_a_worker_ends_the_run_and_nothing_else_does(launch_ray, tmp_path):
    """Ray starts workers anew that raise, and gives up where its witness does."""
    witness = launch_ray._Witness(tmp_path / "ray.words")
    lost, broken = PeerError("the end of another"), RuntimeError("a kernel has fallen over")
    witness.after_exception(None, {0: lost, 1: broken})
    for mistake in (
        ConfigError("Expected a run."),
        DivergedError("Expected finite gradients.", 7),
        WorkerError("Expected images.", 3),
    ):
        sent = pickle.loads(pickle.dumps(mistake))  # as Ray hands it over
        with pytest.raises(type(mistake), match=str(mistake)) as raised:
            witness.after_exception(None, {0: lost, 1: sent})
        assert vars(raised.value) == vars(mistake)


def test_a_note_counts_more_than_starts(launch_ray, options, tmp_path):
    failure = {"status": "failed", "code": "5", "message": "Expected finite gradients."}
    given = options("run")
    (tmp_path / "run" / "ray" / "failure.json").write_text(json.dumps(failure))
    (tmp_path / "run" / "ray" / "starts").write_text("0\n" * 8)
    assert launch_ray._work(given) == failure


def test_a_mistake_without_a_note_keeps_its_exit_code(tmp_path):
    """The disk that is full has no room for a note either."""

    def job():
        error = RuntimeError("Training failed due to controller error")
        error.controller_failure = StorageError("Expected to write a checkpoint. Free some space.")
        raise error

    (tmp_path / "ray").mkdir()
    with pytest.raises(WorkerError, match=r"Free some space\.$") as raised:
        driver.watch(job, tmp_path, StopRequest(), 7)
    assert raised.value.exit_code == 6


def test_why_workers_ended_is_said_once_for_each_time(launch_ray, tmp_path):
    words = tmp_path / "ray.words"
    witness = pickle.loads(pickle.dumps(launch_ray._Witness(words)))  # as Ray takes it along
    for error in (RuntimeError("one"), RuntimeError("one"), RuntimeError("two")):
        witness.after_exception(None, {0: error})
    with pytest.raises(DivergedError):
        witness.after_exception(None, {0: DivergedError("Expected finite gradients.", 7)})
    assert words.read_text() == "Worker 0 ended: one\nWorker 0 ended: two\n"
