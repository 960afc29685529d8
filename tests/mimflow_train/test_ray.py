"""Two workers under Ray Train do what one process does; needs a minute or more."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tests.mimflow_train.conftest import SMALL

from mimflow_train.cli.train import main

pytestmark = pytest.mark.slow
QUICK = [argument for value in SMALL for argument in ("--set", value)]


def losses(out):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return {report["step"]: report["loss"] for report in map(json.loads, lines)}


def test_two_ray_workers_equal_one_process(folder, tmp_path):
    arguments = ["--data", str(folder), *QUICK, "--set", "steps=20", "--checkpoint-every", "10"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--out", str(tmp_path / "one")])
    assert ended.value.code == 0

    command = [sys.executable, "-m", "mimflow_train.cli.train", *arguments]
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        [*command, "--workers", "2", "--device", "cpu", "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert "gap closed by the flow" in done.stdout
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert one.keys() == two.keys() == {10, 20}
    for step, loss in one.items():
        assert two[step] == pytest.approx(loss, rel=1e-5)
    first, second = (
        load_file(tmp_path / name / "checkpoints" / "step_00000020" / "ema.safetensors")
        for name in ("one", "two")
    )
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-3, rtol=1e-2)
