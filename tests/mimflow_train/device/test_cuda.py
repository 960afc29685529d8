"""What only a GPU can show; skipped without one."""

import dataclasses

import pytest
import torch

from mimflow_train.engine.context import LocalContext
from mimflow_train.engine.stop import StopRequest
from mimflow_train.frozen.efflite0 import EffLite0Distance, EffLite0Teacher
from mimflow_train.loop import Calls, train
from mimflow_train.state import TrainState

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CUDA = torch.device("cuda")


def losses(config, data, device):
    """Return the loss of every tenth step of a run on a device."""
    seen = []
    context = LocalContext(device, lambda _, values: seen.append(values["loss"]), StopRequest())
    state = TrainState(config, device)
    train(context, config, data, state=state, calls=Calls(config.steps, lambda _: None))
    return seen


def test_a_run_on_the_gpu_follows_the_run_on_the_cpu(config, data):
    config = dataclasses.replace(config, steps=30, precision="fp32")
    on_cpu, on_gpu = (losses(config, data, device) for device in (torch.device("cpu"), CUDA))
    assert len(on_gpu) == 3
    assert on_gpu == pytest.approx(on_cpu, rel=1e-3)


@pytest.mark.parametrize("micro_batch", [0, 4])
def test_a_captured_pass_learns_what_the_pass_learns(config, data, micro_batch):
    config = dataclasses.replace(config, steps=30, precision="fp32", micro_batch=micro_batch)
    captured = dataclasses.replace(config, cuda_graph=True)
    launched, replayed = (losses(each, data, CUDA) for each in (config, captured))
    assert replayed == pytest.approx(launched, rel=1e-4)


def test_frozen_networks_go_along_with_the_precision_of_the_run(data):
    image = data.train.stack(range(8)).float().to(CUDA) / 127.5 - 1
    other = image.flip(0)
    teacher, distance = EffLite0Teacher((4, 4), CUDA), EffLite0Distance.load(CUDA)
    exact, apart = teacher(image), distance(image, distance.of(other))
    with torch.autocast("cuda", torch.bfloat16):
        rounded, nearly = teacher(image), distance(image, distance.of(other))
    assert not torch.equal(exact, rounded.float())
    assert teacher.distance(exact, rounded).max() < 0.01
    assert nearly.item() == pytest.approx(apart.item(), rel=0.02)
