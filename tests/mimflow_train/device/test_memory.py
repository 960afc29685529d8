"""What a step keeps in memory can be chosen, and never changes what is learned."""

import copy
import dataclasses
import itertools
import json
import subprocess
import sys
import weakref

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn.utils.parametrizations import spectral_norm

from mimflow_train.cli.build_config import build_config
from mimflow_train.cli.train import TrainOptions, parse
from mimflow_train.config import DecoderPhaseConfig, DiscriminatorConfig
from mimflow_train.config.file import to_dict
from mimflow_train.decoder_phase import DecoderPhase
from mimflow_train.device.memory import fit_micro_batch, largest_fitting, set_computation
from mimflow_train.draws import draw_step
from mimflow_train.engine.context import LocalContext
from mimflow_train.engine.stop import StopRequest
from mimflow_train.errors import ConfigError
from mimflow_train.frozen.perceptual import level_distance
from mimflow_train.joint_phase import JointPhase
from mimflow_train.micro_batches import Batch
from mimflow_train.model import MIMFlow
from mimflow_train.state import DecoderState, TrainState
from mimflow_train.storage.run_folder import prepare_run
from mimflow_train.teachers import Targets

CPU = torch.device("cpu")


def phase(config, state=None):
    state = state or TrainState(config, CPU)
    context = LocalContext(CPU, lambda *_: None, StopRequest())
    return JointPhase(state, context, config, Targets(None, {}, {}))


def gradients(config, data):
    """Return the gradients of one step and the bytes that autograd kept for them."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    each = phase(config)
    batch = Batch(
        data.train.stack(range(8)).float() / 127.5 - 1, data.train.labels[:8], torch.arange(8)
    )
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        each.gradients(batch, draw_step(config, 0, slice(0, 8)))
    return [p.grad for p in each.state.model.parameters()], sum(kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputing_layers_keeps_less_and_changes_no_bit(config, data, precision):
    config = dataclasses.replace(config, precision=precision)
    kept, kept_bytes = gradients(config, data)
    recomputed, recomputed_bytes = gradients(dataclasses.replace(config, recompute=True), data)
    assert all(torch.equal(a, b) for a, b in zip(kept, recomputed, strict=True))
    assert recomputed_bytes < 0.6 * kept_bytes


def test_recomputing_layers_leaves_the_names_of_weights(config):
    state = TrainState(config, CPU)
    names = list(state.model.state_dict())
    phase(dataclasses.replace(config, recompute=True), state)
    assert list(state.model.state_dict()) == names


def test_the_largest_share_that_fits_is_taken():
    tried = []

    def attempt(size):
        tried.append(size)
        if size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert largest_fitting(12, attempt) == 4
    assert tried == [12, 6, 4]


def test_a_device_too_small_for_one_image_is_one_sentence(config):
    def attempt(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert largest_fitting(2, attempt) == 0
    on_gpu = LocalContext(torch.device("cuda"), lambda *_: None, StopRequest())
    with pytest.raises(ConfigError, match=r"Expected one image to fit.*recompute"):
        fit_micro_batch(config, on_gpu, attempt, MIMFlow(config.trained_model))


@pytest.mark.parametrize("fresh", [None, False, True], ids=["joint", "decoder", "fresh-fakes"])
def test_trying_a_micro_batch_out_leaves_no_trace(config, data, fresh):
    discriminator = DiscriminatorConfig(width=16, depth=1)
    second = DecoderPhaseConfig(steps=1, fresh_fakes=bool(fresh), discriminator=discriminator)
    config = dataclasses.replace(config, decoder_phase=second)
    state = TrainState(config, CPU)
    each = phase(config, state)
    if fresh is not None:
        state = DecoderState.after(state, torch.device("cpu"))
        # As the other discriminator has them, whose weights are not at hand.
        spectral_norm(next(m for m in state.discriminator.modules() if isinstance(m, nn.Conv2d)))
        each = DecoderPhase(state, each.context, config, each.targets)
    before = copy.deepcopy(state.tensors())
    batch = Batch(torch.zeros(4, 3, 16, 16), torch.zeros(4).long(), torch.zeros(4).long())
    each.try_out(batch, draw_step(dataclasses.replace(config, global_batch=4), 0, slice(0, 4)))
    assert all(p.grad is None for p in state.model.parameters())
    for part, tensors in state.tensors().items():
        for name, value in tensors.items():
            assert torch.equal(value, before[part][name]), f"{part}: {name}"


@pytest.mark.parametrize("kind", ["joint", "decoder"])
@pytest.mark.parametrize("is_begun", [False, True])
def test_an_attempt_leaves_room_for_the_moments_to_come(config, data, monkeypatch, kind, is_begun):
    discriminator = DiscriminatorConfig(width=16, depth=1)
    second = DecoderPhaseConfig(steps=1, fresh_fakes=False, discriminator=discriminator)
    config = dataclasses.replace(config, decoder_phase=second)
    state, learn = TrainState(config, CPU), "gradients"
    each = phase(config, state)
    if kind == "decoder":
        state, learn = DecoderState.after(state, torch.device("cpu")), "_passes"
        each = DecoderPhase(state, each.context, config, each.targets)
    batch = Batch(torch.zeros(4, 3, 16, 16), torch.zeros(4).long(), torch.zeros(4).long())
    draws = draw_step(dataclasses.replace(config, global_batch=4), 0, slice(0, 4))
    if is_begun:
        each.gradients(batch, draws)
        each.update()
    taken, held = [], []
    empty_like, passes = torch.empty_like, getattr(each, learn)

    def watched(weight):
        room = empty_like(weight)
        taken.append(weakref.ref(room))
        return room

    def work(*given):
        held.append(sum(tensor().numel() for tensor in taken if tensor() is not None))
        return passes(*given)

    monkeypatch.setattr(each, learn, work)
    monkeypatch.setattr(torch, "empty_like", watched)
    each.try_out(batch, draws)
    monkeypatch.setattr(torch, "empty_like", empty_like)
    learning = [p for p in state.model.parameters() if p.requires_grad]
    learning += state.discriminator.parameters() if kind == "decoder" else []
    assert held == [0 if is_begun else 2 * sum(p.numel() for p in learning)]
    assert not any(tensor() is not None for tensor in taken)


def test_what_fits_a_gpu_becomes_the_micro_batch(config):
    config = dataclasses.replace(config, compile=True)
    tried, model = [], MIMFlow(config.trained_model)
    graphs = CompileCounter()

    def attempt(batch, draws):
        assert not any("forward" in vars(layer) for layer in model.layers), "it is compiled"
        torch.compile(torch.sin, backend=graphs)(batch.image)
        assert graphs.frame_count == 0, "a frozen network's is compiled"
        tried.append((len(batch.image), len(draws.masked)))
        if len(batch.image) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    on_gpu = LocalContext(torch.device("cuda"), lambda *_: None, StopRequest())
    assert fit_micro_batch(config, on_gpu, attempt, model).micro_batch == 2
    assert tried == [(8, 8), (4, 4), (2, 2)]
    chosen = dataclasses.replace(config, micro_batch=4)
    assert fit_micro_batch(chosen, on_gpu, attempt, model) == chosen


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_size_is_tried_out_beside_the_gradients_that_a_step_has(config, monkeypatch, world_size):
    """Those of earlier micro-batches, or DDP's buckets."""
    monkeypatch.setattr(dist, "all_reduce", lambda *_: None)
    tensor, held = torch.tensor, {}
    monkeypatch.setattr(torch, "tensor", lambda value, device=None: tensor(value))
    model = MIMFlow(config.trained_model)
    model.encoder.requires_grad_(requires_grad=False)

    def attempt(batch, _):
        held[len(batch.image)] = sum(p.numel() for p in model.parameters() if p.grad is not None)
        if len(batch.image) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    on_gpu = LocalContext(torch.device("cuda"), lambda *_: None, StopRequest())
    on_gpu.world_size = world_size
    fit_micro_batch(config, on_gpu, attempt, model)
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    alone = {8: 0, 4: learning, 2: learning}
    assert held == (alone if world_size == 1 else {4: learning, 2: learning})
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("fits", [0, 2])
def test_a_worker_for_which_nothing_fits_asks_the_others_all_the_same(config, monkeypatch, fits):
    answers = []

    def all_reduce(value, _):
        answers.append(int(value))
        value.fill_(0)

    def attempt(batch, _):
        if len(batch.image) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    tensor = torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda value, device=None: tensor(value))
    on_gpu = LocalContext(torch.device("cuda"), lambda *_: None, StopRequest())
    on_gpu.world_size = 2
    with pytest.raises(ConfigError, match="Expected one image to fit"):
        fit_micro_batch(config, on_gpu, attempt, MIMFlow(config.trained_model))
    assert answers == [fits]


def test_what_an_attempt_held_is_let_go_before_the_next(monkeypatch):
    held, left = [], []

    class Large:
        """A tensor of an attempt, which only its frame holds."""

    def attempt(size):
        large = Large()
        held.append(weakref.ref(large))
        cycle = [large]
        cycle.append(cycle)
        if size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def empty_cache():
        left.append([each() is not None for each in held])

    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    assert largest_fitting(4, attempt) == 2
    assert left == [[False], [False, False]]


def test_the_search_leaves_a_tenth_of_the_memory(config, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", calls.append)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: calls.append("reset"))

    def attempt(*_):
        calls.append("attempt")

    on_gpu = LocalContext(torch.device("cuda"), lambda *_: None, StopRequest())
    fit_micro_batch(config, on_gpu, attempt, MIMFlow(config.trained_model))
    assert calls == [0.9, "attempt", 1.0, "reset"]


def test_frozen_networks_are_compiled_for_the_micro_batches_of_both_phases(config):
    """The five levels of LPIPS share a function; a GPU may hold more images in the second phase."""
    with torch._dynamo.config.patch(recompile_limit=8, optimize_ddp=True):
        set_computation(
            MIMFlow(config.trained_model), dataclasses.replace(config, compile=True), CPU
        )
        graphs = CompileCounter()
        distance = torch.compile(level_distance, backend=graphs, dynamic=False)
        for images, side in itertools.product((4, 2), (16, 8, 4, 2, 1)):
            features = torch.ones(images, 3, side, side)
            distance(features, features, torch.ones(3))
    assert graphs.frame_count == 10


@pytest.mark.parametrize(("text", "expected"), [("auto", 0), ("8", 8)])
def test_micro_batch_option_reaches_the_configuration(text, expected):
    options = parse(TrainOptions, ["--micro-batch", text], "mimflow-train")
    assert build_config(options).micro_batch == expected


def test_micro_batch_must_be_a_number_or_auto():
    options = parse(TrainOptions, ["--micro-batch", "lots"], "mimflow-train")
    with pytest.raises(ConfigError, match="--micro-batch auto or a number; got lots"):
        build_config(options)


def test_where_a_run_is_computed_may_change_when_it_goes_on(config, tmp_path):
    prepare_run(config, tmp_path, "auto")
    (tmp_path / "checkpoints" / "step_00000001").mkdir(parents=True)
    changed = dataclasses.replace(
        config,
        micro_batch=2,
        recompute=True,
        compile=True,
        data=dataclasses.replace(config.data, loaders=3),
    )
    prepare_run(changed, tmp_path, "auto")
    with pytest.raises(ConfigError, match="changed: seed was 0, now 7"):
        prepare_run(dataclasses.replace(changed, seed=7), tmp_path, "auto")


@pytest.fixture
def group(tmp_path):
    """A group whose only worker is this process."""
    dist.init_process_group("gloo", f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_the_pass_that_settles_buckets_is_of_a_step_s_kind(config, data, group, monkeypatch):
    decoder = dataclasses.replace(config.model.decoder, depth=2, drop_path=0.5)
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, decoder=decoder),
        precision="bf16",
        micro_batch=2,
    )
    seen, forward = [], MIMFlow.forward

    def watched(self, image, label, masked, noise, uniform=None):
        drawn = None if uniform is None else uniform.shape
        seen.append((image.shape, noise.shape, drawn, torch.is_autocast_enabled("cpu")))
        return forward(self, image, label, masked, noise, uniform)

    monkeypatch.setattr(MIMFlow, "forward", watched)
    context = LocalContext(CPU, lambda *_: None, StopRequest())
    context.world_size = 2
    state = TrainState(config, CPU)
    each = JointPhase(state, context, config, Targets(None, {}, {}))
    assert len(seen) == 1
    assert all(p.grad is None for p in state.model.parameters())
    pixels = data.train.stack(range(4)).float() / 127.5 - 1
    each.gradients(
        Batch(pixels, data.train.labels[:4], torch.arange(4)), draw_step(config, 0, slice(0, 4))
    )
    assert len(seen) == 3
    assert set(seen) == {seen[0]}


COMPILED = """
import dataclasses, json, sys
from pathlib import Path
import torch
from torch._dynamo.utils import counters
from mimflow_train.config import TrainConfig
from mimflow_train.config.file import from_dict
from mimflow_train.engine.context import LocalContext
from mimflow_train.engine.stop import StopRequest
from mimflow_train.draws import draw_step
from mimflow_train.micro_batches import Batch
from mimflow_train.phases import phase_of
from mimflow_train.state import DecoderState, TrainState
from mimflow_train.teachers import Targets

config = from_dict(TrainConfig, json.loads(Path(sys.argv[1]).read_text()))
draw = torch.Generator().manual_seed(0)
image = torch.rand(8, 3, 16, 16, generator=draw)
batch = Batch(image, torch.arange(8) % 3, torch.arange(8))

def gradients(kind, **how):
    each = dataclasses.replace(config, **how)
    joint = TrainState(each, torch.device("cpu"))
    state = joint if kind == "joint" else DecoderState.after(joint, torch.device("cpu"))
    context = LocalContext(torch.device("cpu"), lambda *_: None, StopRequest())
    phase = phase_of(state, context, each, Targets(None, {}, {}))
    phase.gradients(batch, draw_step(each, 0, slice(0, 8)))
    return [p.grad for p in state.model.parameters() if p.grad is not None]

def num_graphs():
    return counters["stats"]["unique_graphs"]

for kind in ("joint", "decoder"):
    plain = gradients(kind)
    assert num_graphs() == (0 if kind == "joint" else graphs)
    for how in (dict(compile=True), dict(compile=True, recompute=True)):
        compiled = gradients(kind, **how)
        assert len(plain) == len(compiled) > 0
        for a, b in zip(plain, compiled):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    graphs = num_graphs()
    print(kind, graphs)
    # One for each kind and size of layer; the first of a network may have an input of its own kind.
    assert 0 < graphs <= 12
"""


@pytest.mark.slow
def test_compiled_networks_learn_the_same_to_rounding(config, tmp_path):
    """In a process of its own: the checks of argument types that tests add do not compile."""
    discriminator = DiscriminatorConfig(width=16, depth=1)
    second = DecoderPhaseConfig(steps=1, gan_weight=0.5, discriminator=discriminator)
    config = dataclasses.replace(config, decoder_phase=second)
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    (tmp_path / "program.py").write_text(COMPILED)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "config.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]


ADAPTIVE = """
import functools, json, sys
import torch
from mimflow_train.config import TrainConfig
from mimflow_train.config.file import from_dict
from mimflow_train.data.images import LabelledImages, MemoryImages, Split
from mimflow_train.engine.context import LocalContext
from mimflow_train.engine.stop import StopRequest
from mimflow_train.loop import Calls
from mimflow_train.run import train_phases
from mimflow_train.state import TrainState

torch.compile = functools.partial(torch.compile, backend="aot_eager")
config = from_dict(TrainConfig, json.load(open(sys.argv[1])))
pixels = torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8)
split = Split(MemoryImages(pixels), torch.arange(16) % len(config.data.class_names))
data, cpu = LabelledImages(split, split, config.data.class_names), torch.device("cpu")
context, calls = LocalContext(cpu, print, StopRequest()), Calls(100, lambda _: None)
state = train_phases(context, TrainState(config, cpu), data, until=config.all_steps, calls=calls)
assert state.step == config.all_steps == 2
"""


@pytest.mark.slow
def test_compiled_decoders_learn_by_the_adaptive_weight(config, tmp_path):
    """Whose gradient keeps a graph that the joint phase's compiled pass had freed."""
    discriminator = DiscriminatorConfig(width=16, depth=1)
    second = DecoderPhaseConfig(steps=1, adaptive=True, discriminator=discriminator)
    config = dataclasses.replace(config, compile=True, steps=1, decoder_phase=second)
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    (tmp_path / "program.py").write_text(ADAPTIVE)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "config.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]


UNDER_DDP = """
import json, sys
from functools import partial
from pathlib import Path
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from mimflow_train.config import TrainConfig
from mimflow_train.config.file import from_dict
from mimflow_train.draws import draw_step
from mimflow_train.device.memory import set_computation
from mimflow_train.model import MIMFlow

folder = Path(sys.argv[1])
config = from_dict(TrainConfig, json.loads((folder / "config.json").read_text()))
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=0, world_size=1)
dist._DEFAULT_FIRST_BUCKET_BYTES = 1000
sizes = []

def backend(graph, _):
    sizes.append(len(graph.graph.nodes))
    return graph.forward

compiler = torch.compile
torch.compile = partial(compiler, backend=backend)
draws = draw_step(config, 0, slice(0, 8))

def graphs(wrapped):
    torch._dynamo.reset()
    sizes.clear()
    model = MIMFlow(config.trained_model)
    set_computation(model, config, torch.device("cpu"))
    module = wrapped(model)
    module(torch.rand(8, 3, 16, 16), torch.arange(8) % 3, draws.masked, draws.noise)
    return list(sizes)

alone = graphs(lambda model: model)
assert len(alone) > 0
small = partial(DistributedDataParallel, bucket_cap_mb=0.001)  # below any layer's weights
assert graphs(small) == alone, (alone, sizes)
"""


@pytest.mark.slow
def test_layers_are_compiled_whole_under_ddp(config, tmp_path):
    """In a process of its own, as above."""
    (tmp_path / "config.json").write_text(
        json.dumps(to_dict(dataclasses.replace(config, compile=True)))
    )
    (tmp_path / "program.py").write_text(UNDER_DDP)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
