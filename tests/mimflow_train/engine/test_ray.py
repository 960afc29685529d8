"""Two workers under Ray Train do what one process does, also when they are stopped on the way."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.mimflow_train.conftest import SMALL

from mimflow_train.cli.train import main

pytestmark = pytest.mark.slow
# The workers' share as the micro-batch of one process: the same sums in the same order.
QUICK = [
    argument for value in [*SMALL, "steps=200", "micro_batch=4"] for argument in ("--set", value)
]


def losses(out):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return {report["step"]: report["loss"] for report in map(json.loads, lines)}


def reported(out):
    path = out / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def launch(arguments):
    command = [sys.executable, "-m", "mimflow_train.cli.train", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True, start_new_session=True)


def test_two_stopped_and_continued_ray_workers_equal_one_process(folder, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    arguments = ["--data", str(folder), *QUICK, "--checkpoint-every", "40", "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--out", str(one)])
    assert ended.value.code == 0

    arguments += ["--workers", "2", "--out", str(two)]
    driver = launch(arguments)
    while driver.poll() is None and len(reported(two)) < 5:  # beyond the checkpoint of step 40
        time.sleep(0.2)
    os.killpg(driver.pid, signal.SIGTERM)  # as `timeout` does
    _, stderr = driver.communicate(timeout=300)
    assert driver.returncode == 143, stderr
    assert "Run the same command again" in stderr
    assert 40 < max(losses(two)) < 200

    driver = launch(arguments)
    stdout, stderr = driver.communicate(timeout=600)
    assert driver.returncode == 0, stderr
    assert "gap closed by the flow" in stdout
    assert losses(one).keys() == losses(two).keys() == set(range(10, 201, 10))
    for step, loss in losses(one).items():
        assert losses(two)[step] == pytest.approx(loss, rel=1e-6)
    first, second = (
        load_file(run / "checkpoints" / "step_00000200" / "ema.safetensors") for run in (one, two)
    )
    for name, value in first.items():
        torch.testing.assert_close(second[name], value)


def processes(mark):
    """Return the command lines of the processes that inherited a mark."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (path / "environ").read_bytes():
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:  # it has ended
            continue
    return found


def test_a_second_ctrl_c_ends_a_ray_run_at_once_and_leaves_no_process(folder, tmp_path):
    out, mark = tmp_path / "run", uuid.uuid4().hex
    arguments = ["--data", str(folder), *QUICK, "--set", "steps=100000", "--device", "cpu"]
    command = [sys.executable, "-m", "mimflow_train.cli.train", *arguments, "--workers", "2"]
    driver = subprocess.Popen(
        [*command, "--out", str(out), "--checkpoint-every", "100000"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MIMFLOW_TEST_MARK": mark},
        start_new_session=True,
    )
    while driver.poll() is None and not (out / "metrics.jsonl").exists():
        time.sleep(0.2)
    for _ in range(2):  # a terminal sends it to all that it started
        os.killpg(driver.pid, signal.SIGINT)
        time.sleep(0.7)  # sooner it would be an echo of the first
    _, stderr = driver.communicate(timeout=60)
    assert driver.returncode == 130, stderr
    foreign = [line for line in stderr.splitlines() if "step" not in line]
    assert foreign == ["35 images to train on and 5 held out, in 2 classes."]
    assert processes(mark) == {}


def test_a_mistake_that_workers_meet_ends_them_all_with_its_sentence(folder, tmp_path):
    for file in sorted(folder.glob("*/*.png"))[:9]:
        file.write_bytes(b"no image")
    where = ["--data", str(folder), "--out", str(tmp_path / "run"), "--device", "cpu"]
    driver = launch([*where, *QUICK, "--workers", "2"])
    _, stderr = driver.communicate(timeout=600)
    assert driver.returncode == 3, stderr
    first, second, *found, last = stderr.splitlines()
    assert "35 images to train on" in first
    assert "200 steps of 8 images" in second
    assert found
    assert all(line.startswith("Cannot decode ") for line in found)
    assert last.startswith("mimflow-train: Expected at most 1 unreadable image(s); got 2")
