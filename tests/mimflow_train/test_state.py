import dataclasses

import pytest
import torch
from safetensors import SafetensorError

from mimflow_train.config import OptimConfig
from mimflow_train.errors import StorageError
from mimflow_train.state import TrainState, learning_rate
from mimflow_train.storage import checkpoint as checkpoint_module
from mimflow_train.storage.checkpoint import (
    damage,
    latest_checkpoint,
    load_state,
    snapshot,
    write_checkpoint,
)

CPU = torch.device("cpu")


def stepped(config, steps=2):
    """A state after a few updates with random gradients."""
    state = TrainState(config, CPU)
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for parameter in state.model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        state.optimizer.step()
        state.average(0.9)
        state.step += 1
    return state


def full_disk(*_):
    raise SafetensorError("No space left on device (os error 28)")


def same(first, second):
    return all(
        torch.equal(value, second[name][key])
        for name, tensors in first.items()
        for key, value in tensors.items()
    )


def test_start_depends_on_the_seed_alone(config):
    torch.manual_seed(5)
    first = TrainState(config, CPU).tensors()
    torch.manual_seed(6)
    assert same(first, TrainState(config, CPU).tensors())
    other = TrainState(dataclasses.replace(config, seed=1), CPU).tensors()
    assert not same(first, other)


def test_average_of_a_short_run_follows_the_weights(config):
    state = TrainState(config, CPU)
    parameter, average = next(state.model.parameters()), next(state.ema.parameters())
    with torch.no_grad():
        parameter.zero_()
        average.fill_(1.0)
    state.average(0.9999)
    torch.testing.assert_close(average, torch.full_like(average, 0.1))
    state.step = 10**6
    state.average(0.9)
    torch.testing.assert_close(average, torch.full_like(average, 0.09))


def test_average_is_not_trained(config):
    state = TrainState(config, CPU)
    assert not any(parameter.requires_grad for parameter in state.ema.parameters())


def test_checkpoint_brings_back_every_tensor(config, tmp_path):
    state = stepped(config)
    folder = write_checkpoint(snapshot(state), config, tmp_path)
    loaded = load_state(folder, config, CPU)
    assert loaded.step == 2
    assert loaded.tensors().keys() == state.tensors().keys()
    assert len(loaded.tensors()["optimizer"]) == len(state.tensors()["optimizer"]) > 0
    assert same(state.tensors(), loaded.tensors())


def test_only_the_newest_checkpoints_stay(config, tmp_path):
    state = stepped(config)
    for step in (1, 2, 3):
        state.step = step
        write_checkpoint(snapshot(state), config, tmp_path)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_00000002", "step_00000003"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "manifest.json"])
def test_damaged_checkpoint_is_passed_over(config, tmp_path, name):
    state = stepped(config)
    earlier = write_checkpoint(snapshot(state), config, tmp_path)
    state.step = 3
    damaged = write_checkpoint(snapshot(state), config, tmp_path) / name
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(bytes(content))
    warnings = []

    def names():
        return {path.name for path in (tmp_path / "checkpoints").iterdir()}

    assert latest_checkpoint(tmp_path, warnings.append) == earlier
    assert "step_00000003 is damaged" in warnings[0]
    assert names() == {earlier.name, "step_00000003"}, "who only reads leaves it to who trains"
    assert latest_checkpoint(tmp_path, warnings.append, set_aside=True) == earlier
    assert names() == {earlier.name, "damaged_step_00000003"}
    assert latest_checkpoint(tmp_path, warnings.append, set_aside=True) == earlier
    assert len(warnings) == 2


@pytest.mark.parametrize(("times", "is_damaged"), [(4, False), (99, True)])
def test_a_checkpoint_that_cannot_be_read_for_a_while_is_whole(
    config, tmp_path, monkeypatch, times, is_damaged
):
    folder = write_checkpoint(snapshot(stepped(config)), config, tmp_path)
    left, digest, waits = [times], checkpoint_module._sha256, []

    def away(path):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(116, "Stale file handle")
        return digest(path)

    monkeypatch.setattr(checkpoint_module, "_sha256", away)
    monkeypatch.setattr("mimflow_train.storage.retries.time.sleep", waits.append)
    assert (damage(folder) is not None) is is_damaged
    assert len(waits) == 4


def test_a_storage_that_is_away_while_a_state_is_loaded_is_waited_for(
    config, tmp_path, monkeypatch
):
    state, waits, load = stepped(config), [], checkpoint_module.load_file
    folder = write_checkpoint(snapshot(state), config, tmp_path)

    def away(path):
        if len(waits) < 3:
            raise OSError("Stale file handle (os error 116)")  # as safetensors raises it
        return load(path)

    monkeypatch.setattr("mimflow_train.storage.retries.time.sleep", waits.append)
    monkeypatch.setattr(checkpoint_module, "load_file", away)
    assert same(load_state(folder, config, CPU).tensors(), state.tensors())
    assert waits == [2.0] * 3


def test_only_damaged_checkpoints_start_nothing_anew(config, tmp_path):
    folder = write_checkpoint(snapshot(stepped(config)), config, tmp_path)
    (folder / "ema.safetensors").unlink()
    for _ in range(2):
        with pytest.raises(
            StorageError, match=r"all 1 are damaged.*move the folder away to start anew"
        ):
            latest_checkpoint(tmp_path, lambda _: None)
    assert folder.exists()


def test_failed_save_leaves_the_earlier_checkpoint(config, tmp_path, monkeypatch):
    state = stepped(config)
    earlier = write_checkpoint(snapshot(state), config, tmp_path)
    state.step = 3

    monkeypatch.setattr("mimflow_train.storage.checkpoint.save_file", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        write_checkpoint(snapshot(state), config, tmp_path)
    assert latest_checkpoint(tmp_path, lambda _: None) == earlier
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [earlier.name]


def test_constant_schedule_stays_after_the_warmup():
    config = OptimConfig(lr=2.0, warmup_steps=4)
    assert [learning_rate(config, step, 100) for step in (0, 3, 4, 99)] == [0.5, 2.0, 2.0, 2.0]
