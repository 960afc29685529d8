"""Whether a run folder may be gone on with, whatever is missing or damaged in it."""

import dataclasses
import errno
import os
import shutil
from pathlib import Path

import pytest
import torch

from mimflow_train.config.file import read_config, write_config
from mimflow_train.errors import ConfigError
from mimflow_train.recipes import paper, tiny
from mimflow_train.state import TrainState
from mimflow_train.storage.checkpoint import snapshot, write_checkpoint
from mimflow_train.storage.run_folder import checkpoints, prepare_run, require_begun, steps_done


@pytest.fixture
def begun(config, tmp_path):
    """Return the folder of a run with a checkpoint of step 2."""
    prepare_run(config, tmp_path, "auto")
    state = TrainState(config, torch.device("cpu"))
    state.step = 2
    write_checkpoint(snapshot(state), config, tmp_path)
    return tmp_path


@pytest.fixture
def other(config):
    return dataclasses.replace(config, steps=30)


def test_another_configuration_is_refused_by_what_differs(begun, other, config):
    with pytest.raises(ConfigError, match="changed: steps was 6, now 30"):
        prepare_run(other, begun, "auto")
    prepare_run(config, begun, "auto")


def constant(config, **changes):
    return dataclasses.replace(
        config, optim=dataclasses.replace(config.optim, schedule="constant"), **changes
    )


def test_a_run_is_prolonged_where_no_step_looked_at_its_length(config, tmp_path):
    state = TrainState(constant(config), torch.device("cpu"))
    prepare_run(constant(config), tmp_path, "auto")
    state.step = 6
    write_checkpoint(snapshot(state), constant(config), tmp_path)
    prepare_run(constant(config, steps=9), tmp_path, "auto")
    assert read_config(tmp_path).steps == 9
    with pytest.raises(ConfigError, match="steps was 9, now 5"):
        prepare_run(constant(config, steps=5), tmp_path, "auto")
    with pytest.raises(ConfigError, match="seed was 0, now 1"):
        prepare_run(constant(config, steps=9, seed=1), tmp_path, "auto")


def test_guidance_which_no_step_looks_at_may_change(begun, config):
    prepare_run(dataclasses.replace(config, guidance=1.5), begun, "auto")
    assert read_config(begun).guidance == 1.5


def test_the_decoder_phase_is_free_until_it_has_begun(begun, config):
    longer = dataclasses.replace(config.decoder_phase, steps=7, gan_weight=0.5)
    prepare_run(dataclasses.replace(config, decoder_phase=longer), begun, "auto")
    (manifest,) = begun.glob("checkpoints/*/manifest.json")
    manifest.write_text(manifest.read_text().replace('"phase": "joint"', '"phase": "decoder"'))
    with pytest.raises(ConfigError, match=r"decoder_phase.gan_weight was 0.5, now"):
        prepare_run(config, begun, "auto")


def test_another_scale_is_said_in_short(begun, config):
    large = dataclasses.replace(paper("S", config.data.class_names, "emoji"), seed=config.seed)
    with pytest.raises(ConfigError) as refusal:
        prepare_run(large, begun, "auto")
    assert "changed: scale was tiny, now S, and with it" in str(refusal.value)
    assert len(str(refusal.value)) < 300


def test_a_checkpoint_without_config_json_says_what_it_was_started_with(begun, other, config):
    (begun / "config.json").unlink()
    with pytest.raises(ConfigError, match="steps was 6, now 30"):
        prepare_run(other, begun, "auto")
    prepare_run(config, begun, "auto")
    assert read_config(begun) == config


def test_an_empty_config_json_blocks_no_run_that_has_checkpoints(begun, other, config):
    (begun / "config.json").write_text("")
    with pytest.raises(ConfigError, match="steps was 6, now 30"):
        prepare_run(other, begun, "auto")
    prepare_run(config, begun, "auto")
    assert read_config(begun) == config


@pytest.mark.parametrize("damage", ["none", "no config.json", "torn config.json"])
def test_never_starts_anew_whatever_is_left(begun, other, damage):
    if damage == "no config.json":
        (begun / "config.json").unlink()
    if damage == "torn config.json":
        (begun / "config.json").write_text("{")
    (begun / "mine.txt").touch()
    prepare_run(other, begun, "never")
    assert checkpoints(begun) == []
    assert read_config(begun) == other
    assert (begun / "mine.txt").exists()


def test_never_removes_nothing_from_a_folder_that_is_no_run(config, tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "holiday.png").touch()
    prepare_run(config, tmp_path, "never")
    assert (tmp_path / "samples" / "holiday.png").exists()


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_folder_of_another_project_is_no_run(config, tmp_path, resume):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "epoch1.pt").touch()
    with pytest.raises(ConfigError, match=r"holds config\.json\. Name another"):
        prepare_run(config, tmp_path, resume)
    assert (tmp_path / "config.json").read_text() == '{"model_type": "bert"}'
    assert (tmp_path / "checkpoints" / "epoch1.pt").exists()


def test_a_copy_beside_a_checkpoint_is_none(begun, config):
    (folder,) = checkpoints(begun)
    shutil.copytree(folder, folder.with_name(f"{folder.name}.bak"))
    assert checkpoints(begun) == [folder]
    assert steps_done(begun) == 2


def test_a_run_is_not_begun_among_other_folders(config, tmp_path):
    (tmp_path / "slurm-17.out").touch()
    (tmp_path / "samples").mkdir()
    prepare_run(config, tmp_path, "auto")
    (tmp_path / "config.json").unlink()
    for name in ("cat", "dog", "emu", "fox"):
        (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=r"holds cat, dog, emu, \.\.\.\. Name another"):
        prepare_run(config, tmp_path, "auto")
    assert not (tmp_path / "config.json").exists()


def test_a_checkpoint_that_was_never_finished_is_none(config, other, tmp_path):
    write_config(config, tmp_path)
    (tmp_path / "checkpoints" / ".step_00000002.draft").mkdir(parents=True)
    with pytest.raises(ConfigError, match="Expected a run to resume"):
        require_begun(tmp_path, "must")
    prepare_run(other, tmp_path, "auto")
    assert read_config(tmp_path) == other


def test_the_recipe_is_no_other_than_itself(tmp_path):
    (tmp_path / "checkpoints" / "step_00000001").mkdir(parents=True)
    write_config(tiny(), tmp_path)
    prepare_run(tiny(), tmp_path, "auto")


@pytest.fixture
def away(monkeypatch):
    """Return a function that lets listing the checkpoints fail a number of times."""
    listdir, scandir = os.listdir, os.scandir

    def function(number, times):
        left = [number] * times

        def failing(how):
            def look(path):
                if Path(path).name == "checkpoints" and left:
                    raise OSError(left.pop(), "away")
                return how(path)

            return look

        monkeypatch.setattr(os, "listdir", failing(listdir))
        monkeypatch.setattr(os, "scandir", failing(scandir))
        monkeypatch.setattr("mimflow_train.storage.retries.time.sleep", lambda _: None)

    return function


@pytest.mark.parametrize(("number", "times"), [(errno.ESTALE, 99), (errno.EACCES, 1)])
def test_a_run_that_cannot_be_listed_is_no_new_one(begun, away, number, times):
    away(number, times)
    with pytest.raises(OSError, match="away"):
        checkpoints(begun)


def test_a_listing_is_tried_again(begun, away):
    away(errno.EIO, 3)
    assert steps_done(begun) == 2


def test_a_folder_without_checkpoints_has_none(tmp_path):
    (tmp_path / "file").touch()
    assert checkpoints(tmp_path) == checkpoints(tmp_path / "file") == []
