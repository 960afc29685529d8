"""Two workers under Ray Train do what one process does, also when they are stopped on the way."""

import json
import signal
import subprocess
import sys
import time

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


def launch(arguments):
    command = [sys.executable, "-m", "mimflow_train.cli.train", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_stopped_and_continued_ray_workers_equal_one_process(folder, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    arguments = ["--data", str(folder), *QUICK, "--checkpoint-every", "40", "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--out", str(one)])
    assert ended.value.code == 0

    arguments += ["--workers", "2", "--out", str(two)]
    driver = launch(arguments)
    while driver.poll() is None and not (two / "checkpoints" / "step_00000040").exists():
        time.sleep(0.2)
    driver.send_signal(signal.SIGTERM)
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
