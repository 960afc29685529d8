import ctypes
import dataclasses
import json
import os
import signal
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from mimflow_train.config.overrides import override
from mimflow_train.data.images import MemoryImages, Split
from mimflow_train.data.order import image_order
from mimflow_train.device.memory import blank_batch
from mimflow_train.engine.context import LocalContext
from mimflow_train.engine.stop import StopRequest
from mimflow_train.errors import ConfigError, DivergedError, StorageError
from mimflow_train.joint_phase import JointPhase
from mimflow_train.loop import Calls, _batches, _sent, _steps, train
from mimflow_train.micro_batches import micro_batches
from mimflow_train.objective import Objective
from mimflow_train.state import TrainState
from mimflow_train.storage.checkpoint import load_state, snapshot, write_checkpoint
from mimflow_train.teachers import Targets

CPU = torch.device("cpu")
NOTHING = Targets(None, {}, {})


def run(config, data, state=None, stop_at=None):
    """Train, in the state given or a new one; return it and what was reported."""
    state = state or TrainState(config, CPU)
    stop, reports = StopRequest(), []

    class Context(LocalContext):
        def should_stop(self):
            return state.step == stop_at

    context = Context(CPU, lambda step, values: reports.append((step, values)), stop)
    train(context, config, data, state=state, calls=Calls(100, lambda _: None))
    return state, reports


def same(first, second):
    return all(
        torch.equal(value, second.tensors()[name][key])
        for name, tensors in first.tensors().items()
        for key, value in tensors.items()
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopped_and_continued_run_equals_an_uninterrupted_one(config, data, tmp_path, precision):
    config = dataclasses.replace(config, precision=precision)
    whole, _ = run(config, data)
    part, _ = run(config, data, stop_at=3)
    assert part.step == 3
    folder = write_checkpoint(snapshot(part), config, tmp_path)
    torch.manual_seed(99)
    rest, _ = run(config, data, load_state(folder, config, CPU))
    assert rest.step == whole.step == 6
    assert same(whole, rest)


def test_training_lowers_the_loss(config, data):
    smooth = torch.linspace(0, 255, 16).expand(16, 3, 16, 16) * torch.rand(16, 3, 1, 1)
    images = MemoryImages(smooth.to(torch.uint8))
    data = dataclasses.replace(data, train=dataclasses.replace(data.train, images=images))
    optim = dataclasses.replace(config.optim, lr=1e-2)
    _, reports = run(dataclasses.replace(config, steps=100, optim=optim), data)
    assert reports[-1][1]["pixel"] < 0.5 * reports[0][1]["pixel"]


def test_micro_batches_add_up_to_the_batch(config, data):
    decoder = dataclasses.replace(config.model.decoder, depth=2, drop_path=0.5)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, decoder=decoder))
    whole, (first, *_) = run(config, data)
    parts, (second, *_) = run(dataclasses.replace(config, micro_batch=2), data)
    assert second[1]["loss"] == pytest.approx(first[1]["loss"], rel=1e-6)
    # Adam hides a gradient of the wrong size; its norm does not.
    assert second[1]["gradient_norm"] == pytest.approx(first[1]["gradient_norm"], rel=1e-3)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_micro_batch_must_divide_the_batch(config, data):
    with pytest.raises(ConfigError, match="micro_batch to divide a worker's 8 images; got 3"):
        run(dataclasses.replace(config, micro_batch=3), data)


def test_a_cuda_graph_wants_a_gpu(config, data):
    with pytest.raises(ConfigError, match=r"a GPU that has all .*got a cpu\. Leave cuda_graph out"):
        run(dataclasses.replace(config, cuda_graph=True), data)


def test_a_cuda_graph_wants_a_pass_that_stays_on_the_gpu(config, monkeypatch):
    monkeypatch.setattr("mimflow_train.joint_phase.require_gpu_for_graph", lambda *_, **__: None)
    config = dataclasses.replace(config, cuda_graph=True)
    counts = override(config, ["model.encoder.hidden_patches=dropped"])
    on_host = Targets(None, {}, {"hog": torch.zeros(16, 16, 108)})
    context = LocalContext(CPU, lambda *_: None, StopRequest())
    for each, targets, found in ((counts, NOTHING, "dropped"), (config, on_host, "memory")):
        with pytest.raises(ConfigError, match=f"stays on the GPU .*{found}.*Leave cuda_graph out"):
            JointPhase(TrainState(each, CPU), context, each, targets)


class Waits(TorchDispatchMode):
    """Counts copies to another device, and those of them that would wait for all that is queued."""

    def __init__(self):
        super().__init__()
        self.copies = self.waiting = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        to = kwargs.get("device")
        if func is torch.ops.aten._to_copy.default and to not in (None, args[0].device):
            self.copies += 1
            self.waiting += not kwargs.get("non_blocking")
        return func(*args, **kwargs)


def test_what_a_step_learns_from_is_sent_without_waiting_for_the_step_before(config, data):
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, flip=True))
    context = LocalContext(torch.device("meta"), lambda *_: None, StopRequest())
    steps = _steps(context, config, data, range(1), stream=0)
    with Waits() as sent:
        batch, draws = next(steps)
    assert {each.device.type for each in (batch.image, batch.label, *draws)} == {"meta"}
    assert (sent.copies, sent.waiting) == (3 + len(draws), 0)


def test_workers_share_the_global_batch_of_the_order_s_images(config, data):
    order = image_order(data.train.labels, config.seed, even_classes=config.data.even_classes)
    size, shares = config.global_batch, []
    for rank in range(2):
        context = LocalContext(CPU, lambda *_: None, StopRequest())
        context.rank, context.world_size = rank, 2
        shares.append(list(_batches(context, config, data, range(3, 5))))
    for step, both in zip(range(3, 5), zip(*shares, strict=True), strict=True):
        indices = torch.cat([each for each, _ in both]).tolist()
        assert indices == [order[step * size + place] for place in range(size)]
        assert torch.equal(torch.cat([each for _, each in both]), data.train.stack(indices))


def test_what_a_gpu_is_sent_comes_from_pinned_memory(monkeypatch):
    sent, pinned = [], torch.ones(3)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda _: pinned)
    monkeypatch.setattr(
        torch.Tensor, "to", lambda *given, **how: sent.append((given, how)) or given[0]
    )
    here, gpu = torch.device("cpu"), torch.device("cuda")
    value = torch.zeros(3)
    for device in (here, gpu):
        _sent(value, device)
    assert [given[0] is pinned for given, _ in sent] == [False, True]
    assert [(given[1], how) for given, how in sent] == [
        (device, {"non_blocking": True}) for device in (here, gpu)
    ]


def test_a_captured_pass_gets_the_places_of_its_images_without_waiting(config):
    context = LocalContext(CPU, lambda *_: None, StopRequest())
    phase, replayed = JointPhase(TrainState(config, CPU), context, config, NOTHING), []
    phase.is_captured = True
    phase.captured = lambda part: replayed.append(part) or Objective(torch.zeros(()), {})
    (part,) = micro_batches(CPU, config, *blank_batch(config, 8))
    part = part._replace(image=part.image.to("meta"))
    with Waits() as sent:
        phase._pass(part)
    assert replayed[0].indices.device.type == "meta"
    assert (sent.copies, sent.waiting) == (1, 0)


def test_workers_send_each_other_no_buffer_in_a_step(config, tmp_path, monkeypatch):
    """None of them ever changes: biases of keys, which are 0."""
    sent = []
    dist.init_process_group("gloo", f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        context = LocalContext(CPU, lambda *_: None, StopRequest())
        context.world_size = 2
        phase = JointPhase(TrainState(config, CPU), context, config, NOTHING)
        assert isinstance(phase.module, DistributedDataParallel)
        assert any(True for _ in phase.module.buffers())
        monkeypatch.setattr(dist, "_broadcast_coalesced", lambda *given: sent.append(given))
        phase.gradients(*blank_batch(config, 4))
    finally:
        dist.destroy_process_group()
    assert not sent


def test_saves_at_intervals_and_at_the_end(config, data):
    state, saved = TrainState(config, CPU), []
    context = LocalContext(CPU, lambda *_: None, StopRequest())
    calls = Calls(4, lambda state: saved.append(state.step))
    train(context, config, data, state=state, calls=calls)
    assert saved == [4, 6]


def test_nan_gradient_is_skipped_and_then_stops_the_run(config, data):
    state = TrainState(config, CPU)
    with torch.no_grad():
        next(state.model.decoder.parameters()).fill_(torch.nan)
    before = {name: value.clone() for name, value in state.tensors()["model"].items()}
    with pytest.raises(DivergedError, match=r"3 steps in a row.*non-finite terms: .*pixel"):
        run(config, data, state)
    for name, value in state.tensors()["model"].items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), name


def test_skips_in_a_row_are_counted_on_after_a_resume(config, data, tmp_path):
    state = TrainState(config, CPU)
    with torch.no_grad():
        next(state.model.decoder.parameters()).fill_(torch.nan)
    part, _ = run(config, data, state, stop_at=2)
    folder = write_checkpoint(snapshot(part), config, tmp_path)
    with pytest.raises(DivergedError, match="3 steps in a row") as diverged:
        run(config, data, load_state(folder, config, CPU))
    assert diverged.value.step == 2


def test_a_checkpoint_of_before_skips_were_counted_has_none(config, tmp_path):
    folder = write_checkpoint(snapshot(TrainState(config, CPU)), config, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest.pop("skips") == 0
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert load_state(folder, config, CPU).skips == 0


def test_reported_rate_is_the_distance_to_the_floor(config, data):
    _, reports = run(config, data)
    step, values = reports[-1]
    assert step == 6
    sigma = config.model.encoder.sigma
    floor = 0.5 + torch.tensor(sigma).log().item()
    assert values["rate"] == pytest.approx(values["nll"] - floor, abs=1e-5)


def test_training_never_sees_held_out_images(config, data):
    other = Split(MemoryImages(255 - data.train.images.pixels), 2 - data.train.labels)
    first, _ = run(config, data)
    second, _ = run(config, dataclasses.replace(data, held_out=other))
    assert same(first, second)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signal_asks_the_loop_to_stop_and_is_then_given_back(number):
    before, stop = signal.getsignal(number), StopRequest()
    with stop.listening():
        assert stop.received is None
        os.kill(os.getpid(), number)
        assert stop.received == number
    assert signal.getsignal(number) is before


def test_a_signal_that_comes_twice_at_once_is_one():
    """As under ``uv run``, which passes on what the process group has had already."""
    passed = iter([7.0, 7.1, 8.5])
    ended = []
    stop = StopRequest(before_exit=lambda: ended.append(stop.received), clock=lambda: next(passed))
    stop.end = lambda: ended.append("end")
    with stop.listening():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert (stop.received, ended) == (signal.SIGTERM, [])
        os.kill(os.getpid(), signal.SIGINT)
        assert (stop.received, ended) == (signal.SIGINT, ["end"])


def test_the_end_of_a_job_that_slurm_announced_ends_nothing_but_a_third_signal_does():
    passed, ended = iter([7.0, 127.0, 130.0]), []
    stop = StopRequest(clock=lambda: next(passed))
    stop.end = lambda: ended.append("end")
    with stop.listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)  # while a checkpoint is written
        assert (stop.received, ended) == (signal.SIGUSR1, [])
        os.kill(os.getpid(), signal.SIGTERM)
        assert (stop.received, ended) == (signal.SIGTERM, ["end"])


def test_a_first_signal_after_another_worker_s_ends_nothing():
    stop = StopRequest(before_exit=lambda: pytest.fail("it is no second one of this process"))
    with stop.listening():
        stop.received = signal.SIGTERM  # as a torchrun worker learns it from the others
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.received == signal.SIGTERM


@contextmanager
def amid_a_call(done):
    """Hold this thread in a call that runs no Python until a function of another thread returns."""
    mutex, held = ctypes.create_string_buffer(64), threading.Event()  # of zeros, it is unlocked
    library = ctypes.CDLL(None)

    def hold():
        library.pthread_mutex_lock(mutex)
        held.set()
        time.sleep(0.1)  # until the other waits
        try:
            done()
        finally:
            library.pthread_mutex_unlock(mutex)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    library.pthread_mutex_lock(mutex)  # unlike a sleep it is not ended by a signal
    yield
    thread.join()


def test_an_echo_amid_a_long_call_ends_nothing():
    """As one that waits for a GPU, whose end Python's handlers await."""
    now, ended = [7.0], []
    stop = StopRequest(clock=lambda: now[0])
    stop.end = lambda: ended.append("end")

    def echo():
        os.kill(os.getpid(), signal.SIGUSR1)
        while signal.SIGUSR1 not in stop._arrived:  # heard by the thread, no handler called
            time.sleep(0.01)
        now[0] += 0.8

    with stop.listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        with amid_a_call(echo):
            assert (stop.received, ended) == (signal.SIGUSR1, [])


def test_an_error_within_the_block_leaves_no_thread_behind(monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    def fail():
        os.kill(os.getpid(), signal.SIGUSR1)
        raise StorageError("the disk")

    for _ in range(50):
        with pytest.raises(StorageError), StopRequest().listening():
            fail()
    assert not told


def test_a_second_signal_ends_a_process_that_hangs():
    passed, ended = iter([7.0, 8.5]), threading.Event()
    stop = StopRequest(clock=lambda: next(passed))
    stop.end = ended.set

    def second():
        os.kill(os.getpid(), signal.SIGINT)
        was_ended.append(ended.wait(5.0))

    was_ended = []
    with stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        with amid_a_call(second):
            assert (stop.received, was_ended) == (signal.SIGINT, [True])


def test_signals_are_heard_where_another_has_their_bytes():
    passed, ended = iter([7.0, 7.1, 8.5]), []
    stop = StopRequest(clock=lambda: next(passed))
    stop.end = lambda: ended.append("end")
    theirs, ours = socket.socketpair()
    with theirs, ours:
        ours.setblocking(False)
        signal.set_wakeup_fd(ours.fileno())
        try:
            with stop.listening():
                for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
                    assert not ended
                    os.kill(os.getpid(), number)
                    assert theirs.recv(8) == bytes([number])
        finally:
            assert signal.set_wakeup_fd(-1) == ours.fileno()
    assert (stop.received, ended) == (signal.SIGINT, ["end"])
