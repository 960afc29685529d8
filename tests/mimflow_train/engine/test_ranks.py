"""Several ranks learn what one learns, in both phases, with all options of the second."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.mimflow_train.conftest import SMALL

from mim_encoder import MaskRatio
from mimflow_train.config import (
    ConvolutionalConfig,
    DecoderPhaseConfig,
    DiscriminatorConfig,
    OptimConfig,
)
from mimflow_train.config.file import to_dict
from mimflow_train.storage.checkpoint import fingerprint

WORKER = """
import json, os, sys
from dataclasses import dataclass
from pathlib import Path
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from mimflow_train.engine import all_reduce
from mimflow_train import joint_phase
from mimflow_train.config import TrainConfig
from mimflow_train.config.file import from_dict
from mimflow_train.data.images import LabelledImages, MemoryImages, Split
from mimflow_train.loop import Calls
from mimflow_train.run import train_phases
from mimflow_train.engine.sharding import whole
from mimflow_train.state import DecoderState, TrainState

@dataclass
class Rank:
    rank: int
    world_size: int
    device: torch.device = torch.device("cpu")
    reported: dict = None
    def report(self, step, values): self.reported[step] = values
    def should_stop(self): return False

torch.set_num_threads(1)
folder, rank, world_size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if world_size > 1:
    url = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=url, rank=rank, world_size=world_size)
pixels = torch.randint(0, 256, (16, 3, 16, 16), generator=torch.Generator().manual_seed(0))
split = Split(MemoryImages(pixels.to(torch.uint8)), torch.tensor([0] * 9 + [1] * 5 + [2] * 2))
data = LabelledImages(split, split, ("a", "b", "c"))
def copied(state):
    return {name: {key: whole(value).clone() for key, value in part.items()}
            for name, part in state.tensors().items()}
def share(module):
    local = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel()
                for p in module.parameters())
    return local / sum(p.numel() for p in module.parameters())
class Launched:
    '''A captured pass without a graph, which no CPU has.'''
    def __init__(self, work, weights, part): self.work = work
    def __call__(self, part): return self.work(part)

all_reduce._BUCKET = 1000  # several messages
joint_phase.CapturedPass, joint_phase.require_gpu_for_graph = Launched, lambda *_, **__: None
for name in ("plain", "all", "captured", "shared", "fixed"):
    config = from_dict(TrainConfig, json.loads((folder / f"{name}.json").read_text()))
    context, kept = Rank(rank, world_size, reported={}), {}
    def keep(state):
        kept[state.step] = copied(state)
        if name == "shared" and state.phase == "joint":
            assert share(state.model) < 1.1 / world_size and share(state.ema) < 1.1 / world_size
            for key, value in state.chosen.state_dict().items():
                assert torch.equal(value, kept[state.step]["ema"][key])
    def trained(state, save=lambda _: None):
        return train_phases(context, state, data, until=6, calls=Calls(1, save))
    state = trained(TrainState(config, torch.device("cpu")), keep)
    if rank == 0:
        (folder / f"{name}-{world_size}.json").write_text(json.dumps(context.reported[3]))
    for step, kind in ((2, TrainState), (5, DecoderState)):
        torch.manual_seed(step)
        resumed = kind(config, torch.device("cpu"))
        resumed.load(kept[step].__getitem__, step)
        for part, tensors in trained(resumed).tensors().items():
            for key, value in tensors.items():
                same = torch.equal(value, state.tensors()[part][key])
                assert same, f"{name}, {world_size} ranks, resumed at {step}: {part} {key}"
    tensors = {f"{part}.{key}": value.contiguous()
               for part in ("model", "discriminator", "lecam")
               for key, value in state.tensors()[part].items()}
    save_file(tensors, folder / f"{name}-{rank}-{world_size}.safetensors")
"""


@pytest.fixture
def folder(config, tmp_path):
    """Five configurations and the program of a worker."""
    decoder = dataclasses.replace(config.model.decoder, depth=2, drop_path=0.5)
    model = dataclasses.replace(config.model, decoder=decoder)
    config = dataclasses.replace(config, global_batch=12, model=model)
    phase = DecoderPhaseConfig(
        steps=3,
        gan_weight=0.5,
        discriminator=DiscriminatorConfig(width=16, depth=1),
        optim=OptimConfig(lr=1e-3, ema_decay=0.9),
    )
    options = {"adaptive": True, "augment": True, "fresh_fakes": True, "lecam_weight": 0.1}
    shared = {"shard": True, "recompute": True, "micro_batch": 2}
    captured = {"cuda_graph": True, "micro_batch": 2}
    for name, changes, how in (
        ("plain", {}, {}),
        ("all", options, {}),
        ("captured", {}, captured),
        ("shared", {}, shared),
    ):
        each = dataclasses.replace(
            config, steps=3, decoder_phase=dataclasses.replace(phase, **changes), **how
        )
        (tmp_path / f"{name}.json").write_text(json.dumps(to_dict(each)))
    small = ConvolutionalConfig(widths=(4, 4), num_blocks=1, channels=2, num_groups=2, fixed=True)
    fixed = dataclasses.replace(
        config,
        model=model.with_convolutions(small),
        mask=MaskRatio(low=0.0, high=0.0),
        steps=3,
        decoder_phase=phase,
    )
    (tmp_path / "fixed.json").write_text(json.dumps(to_dict(fixed)))
    (tmp_path / "worker.py").write_text(WORKER)
    return tmp_path


def test_ranks_learn_what_one_learns_and_resume_bit_for_bit(folder):
    """Each worker also stops and goes on in both phases, and compares itself with its own run."""
    commands = [(0, 1), (0, 2), (1, 2)]
    launch(folder, commands)
    for name in ("plain", "all", "captured", "shared", "fixed"):
        one, first, second = (
            load_file(folder / f"{name}-{rank}-{world_size}.safetensors")
            for rank, world_size in commands
        )
        for key in one:
            assert torch.equal(first[key], second[key]), f"{name}: the ranks differ in {key}"
        alone, together = (
            json.loads((folder / f"{name}-{world_size}.json").read_text()) for world_size in (1, 2)
        )
        for key in ("loss", "gradient_norm"):  # AdamW would not see a gradient of another length
            assert together[key] == pytest.approx(alone[key], rel=1e-4), f"{name}: {key}"
        for part in ("model.decoder", "model.encoder", "model.flow", "discriminator", "lecam"):
            keys = [key for key in one if key.startswith(part)]
            errors = torch.cat([(first[key] - one[key]).abs().flatten() for key in keys])
            # AdamW makes whole steps of 1e-3 of gradients that are rounding alone. How many are
            # depends on the processor: errors of 2e-6 and of 7e-6 were seen.
            assert errors.mean() < 3e-5, f"{name}: {part} is off by {errors.mean():.1e}"


@pytest.mark.slow
def test_three_ranks_resume_bit_for_bit(folder):
    """Sums of three depend on DDP's buckets, which it sorts anew after its first pass."""
    launch(folder, [(rank, 3) for rank in range(3)])


def launch(folder, places):
    workers = [
        subprocess.Popen(
            [sys.executable, folder / "worker.py", folder, str(rank), str(world_size)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank, world_size in places
    ]
    try:
        assert [worker.wait(900) for worker in workers] == [0] * len(places)
    finally:
        for worker in workers:
            worker.kill()


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def images(tmp_path):
    """Return a folder of 24 images in two classes."""
    folder = tmp_path / "images"
    for label, name in enumerate(("blue", "red")):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            shade = (40 * label + 5 * number, 20, 250 - 200 * label - number)
            Image.new("RGB", (20, 24), shade).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.slow
def test_torchrun_trains_a_run_to_its_end_with_sharded_weights(tmp_path):
    folder = images(tmp_path)
    (folder / "red" / "notes.heic").write_bytes(b"of no kind that is read")
    arguments = ["--data", folder, "--out", tmp_path / "run", "--device", "cpu"]
    for value in [*SMALL, "loss.perceptual=0.0", "decoder_phase.steps=2", "shard=True"]:
        arguments += ["--set", value]

    def train():
        done = subprocess.run(
            [*map(str, [*TORCHRUN, "-m", "mimflow_train.cli.train", *arguments])],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("gap closed by the flow") == 1
        return done.stderr

    said = train()
    for once in ("8 steps of 8 images", "in 2 classes", "kinds that are not read"):
        assert said.count(once) == 1, said
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step_00000006", "step_00000008"]

    last = tmp_path / "run" / "checkpoints" / "step_00000008"
    learned = fingerprint(last)
    (last / "ema.safetensors").write_bytes(b"damaged")
    assert train().count("is damaged") == 1, "one worker looks, both go on from the one before"
    assert fingerprint(last) == learned
    aside = last.with_name("damaged_step_00000008")
    assert (aside / "ema.safetensors").read_bytes() == b"damaged"


def test_an_error_of_one_worker_ends_all_with_its_sentence(tmp_path):
    """Its peers wait for it, so it must not wait for them; nothing that was started stays."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("no folder, so that rank 0 cannot save")
    program, mark = tmp_path / "program.py", uuid.uuid4().hex
    program.write_text(
        "import time\n"
        "import torch.distributed\n"
        "from mimflow_train.cli.train import main\n"
        "torch.distributed.destroy_process_group = lambda: time.sleep(999)  # as NCCL's waits\n"
        "main()\n"
    )
    arguments = ["--data", images(tmp_path), "--out", tmp_path / "run", "--device", "cpu"]
    for value in [*SMALL, "loss.perceptual=0.0"]:
        arguments += ["--set", value]
    done = subprocess.run(
        [*map(str, [*TORCHRUN, program, *arguments])],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MIMFLOW_TEST_MARK": mark},
    )
    assert done.stderr.count("mimflow-train: Expected to write a checkpoint to") == 1, done.stderr
    assert "exitcode  : 6" in done.stderr
    assert not (tmp_path / "run" / "errors").exists(), "it was no failure of the other's"
    assert not any(mark.encode() in environ for environ in environments())


def environments():
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended
            yield path.read_bytes()
