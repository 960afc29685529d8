import subprocess
import sys

import pytest
import torch

from mimflow_train.device import machine
from mimflow_train.device.machine import computing_device, require_gpu
from mimflow_train.errors import ConfigError


@pytest.fixture
def _no_gpu(monkeypatch):
    monkeypatch.setattr(machine, "_GPU_FILES", ())


@pytest.mark.usefixtures("_no_gpu")
def test_years_on_a_cpu_are_not_begun_by_default():
    with pytest.raises(ConfigError, match=r"Expected a GPU for --scale L; .*--device cpu"):
        require_gpu("L", "auto")


@pytest.mark.usefixtures("_no_gpu")
@pytest.mark.parametrize(("scale", "wanted"), [("L", "cpu"), ("tiny", "auto")])
def test_cpu_serves_the_tiny_scale_and_whoever_asks_for_it(scale, wanted):
    require_gpu(scale, wanted)


def test_gpu_that_is_not_there_is_told_without_torch():
    script = (
        "import sys; from mimflow_train.device import machine; machine._GPU_FILES = ()\n"
        "try: machine.computing_device('cuda')\n"
        "except machine.ConfigError: print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "False\n"


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_process_that_computes_on_a_cpu_keeps_freed_memory(monkeypatch, kind):
    kept = []
    monkeypatch.setattr(machine, "choose_device", lambda wanted: wanted)
    monkeypatch.setattr(machine, "keep_freed_memory", lambda: kept.append(True))
    assert computing_device(kind) == torch.device(kind)
    assert bool(kept) == (kind == "cpu")
