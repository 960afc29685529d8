"""Several ranks learn what one learns, in both phases, with all options of the second."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from mimflow_train.config import DecoderPhaseConfig, DiscriminatorConfig, OptimConfig
from mimflow_train.config_file import to_dict

WORKER = """
import json, os, sys
from dataclasses import dataclass
from pathlib import Path
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from mimflow_train.config import TrainConfig
from mimflow_train.config_file import from_dict
from mimflow_train.data.images import LabelledImages, MemoryImages, Split
from mimflow_train.run import train_phases
from mimflow_train.state import TrainState

@dataclass
class Rank:
    rank: int
    world_size: int
    device: torch.device = torch.device("cpu")
    def report(self, step, values): pass
    def should_stop(self): return False

torch.set_num_threads(1)
folder, rank, world_size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if world_size > 1:
    url = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=url, rank=rank, world_size=world_size)
pixels = torch.randint(0, 256, (16, 3, 16, 16), generator=torch.Generator().manual_seed(0))
split = Split(MemoryImages(pixels.to(torch.uint8)), torch.tensor([0] * 9 + [1] * 5 + [2] * 2))
data = LabelledImages(split, split, ("a", "b", "c"))
for name in ("plain", "all"):
    config = from_dict(TrainConfig, json.loads((folder / f"{name}.json").read_text()))
    state = TrainState(config, torch.device("cpu"))
    context = Rank(rank, world_size)
    state = train_phases(context, state, data, until=6, save_every=9, save=lambda _: None)
    tensors = {f"{part}.{key}": value.contiguous()
               for part in ("model", "discriminator", "lecam")
               for key, value in state.tensors()[part].items()}
    save_file(tensors, folder / f"{name}-{rank}-{world_size}.safetensors")
"""


@pytest.fixture
def folder(config, tmp_path):
    phase = DecoderPhaseConfig(
        steps=3,
        gan_weight=0.5,
        discriminator=DiscriminatorConfig(width=16, depth=1),
        optim=OptimConfig(lr=1e-3, ema_decay=0.9),
    )
    options = {"adaptive": True, "augment": True, "fresh_fakes": True, "lecam_weight": 0.1}
    for name, changes in (("plain", {}), ("all", options)):
        each = dataclasses.replace(
            config, steps=3, decoder_phase=dataclasses.replace(phase, **changes)
        )
        (tmp_path / f"{name}.json").write_text(json.dumps(to_dict(each)))
    (tmp_path / "worker.py").write_text(WORKER)
    return tmp_path


def test_two_ranks_learn_what_one_learns(folder):
    commands = [(0, 1), (0, 2), (1, 2)]
    workers = [
        subprocess.Popen(
            [sys.executable, folder / "worker.py", folder, str(rank), str(world_size)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank, world_size in commands
    ]
    assert [worker.wait(300) for worker in workers] == [0, 0, 0]
    for name in ("plain", "all"):
        one, first, second = (
            load_file(folder / f"{name}-{rank}-{world_size}.safetensors")
            for rank, world_size in commands
        )
        for key in one:
            assert torch.equal(first[key], second[key]), f"{name}: the ranks differ in {key}"
        for part in ("model.decoder", "discriminator", "lecam"):
            keys = [key for key in one if key.startswith(part)]
            errors = torch.cat([(first[key] - one[key]).abs().flatten() for key in keys])
            # AdamW makes whole steps of gradients that are rounding alone; few are.
            assert errors.mean() < 2e-6, f"{name}: {part} is off by {errors.mean():.1e}"
