import dataclasses
import json
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors import safe_open

from mim_encoder import MaskedEncoder, MaskRatio
from mimflow_train.cli import inspect as command
from mimflow_train.config import TrainConfig
from mimflow_train.config.convolutional import ConvolutionalConfig
from mimflow_train.config.file import from_dict, write_config
from mimflow_train.model import MIMFlow
from mimflow_train.state import TrainState
from mimflow_train.storage.checkpoint import snapshot, write_checkpoint
from tarflow_prior import TarFlow
from vit_decoder import FeatureDecoder, FeatureDecoderConfig, PixelDecoder


@pytest.fixture
def finished(config, tmp_path):
    return finish(config, tmp_path)


def finish(config, folder):
    """Make a run with two checkpoints, its average unlike its weights."""
    write_config(config, folder)
    state = TrainState(config, torch.device("cpu"))
    with torch.no_grad():
        for parameter in state.ema.parameters():
            parameter.add_(1.0)
    for state.step in (3, 6):
        write_checkpoint(snapshot(state), config, folder)
    (folder / "metrics.jsonl").write_text('{"step": 6, "time": 1.0, "loss": 0.5}\n{"step": 7')
    return state, folder


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        command.main([str(argument) for argument in arguments])
    return ended.value.code


def test_table_and_json_tell_the_same(finished, capsys):
    _, folder = finished
    assert run(folder, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in report["checkpoints"]] == [3, 6]
    assert report["last_values"] == {"step": 6, "time": 1.0, "loss": 0.5}
    assert report["checkpoints"][0]["bytes"] > 10_000
    assert run(folder) == 0
    text = capsys.readouterr().out
    assert "6 of 6 steps: 6 joint, 0 of the decoder" in text
    assert text.count("not verified") == 2
    assert "loss 0.5" in text
    (folder / "metrics.jsonl").write_text('{"step": 6, "time": 1.0, "loss": null}\n')
    assert run(folder) == 0
    assert "loss not finite" in capsys.readouterr().out


def test_what_a_run_began_with_is_told(finished, capsys):
    _, folder = finished
    began = {"from": "runs/a", "checkpoint": "step_00000009", "weights": "ema", "sha256": "ab" * 32}
    began["at_random"] = ["2 of 3 classes"]
    path = folder / "checkpoints" / "step_00000006" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init": began}))
    assert run(folder) == 0
    assert "began with the ema weights of step_00000009 in runs/a" in capsys.readouterr().out
    assert run(folder, "--json") == 0
    assert json.loads(capsys.readouterr().out)["init"] == began


def test_verify_finds_a_flipped_bit(finished, capsys):
    _, folder = finished
    assert run(folder, "--verify") == 0
    assert capsys.readouterr().out.count("whole") == 2
    file = folder / "checkpoints" / "step_00000006" / "ema.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert run(folder, "--verify") == 6
    captured = capsys.readouterr()
    assert "ema.safetensors does not match its checksum" in captured.out
    assert "1 of 2 are damaged. mimflow-train goes on from the newest" in captured.err
    (folder / "checkpoints" / "step_00000003" / "manifest.json").write_text("null")
    (folder / "checkpoints" / "step_00000006" / "manifest.json").write_text(
        '{"format": 1, "files": {"ema.safetensors": 3}}'
    )
    assert run(folder, "--verify") == 6
    captured = capsys.readouterr()
    assert captured.out.count("its manifest is none") == 2
    assert "2 of 2 are damaged. Restore them from a copy, or move" in captured.err


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_export_is_what_samples_are_made_with(weights, config, finished, tmp_path, capsys):
    state, folder = finished
    config = dataclasses.replace(config, weights=weights)
    write_config(config, folder)
    target = tmp_path / "new" / "model.safetensors"
    assert run(folder, "--export", target) == 0
    assert "step_00000006" in capsys.readouterr().out
    with safe_open(target, "pt") as file:
        exported = from_dict(TrainConfig, json.loads(file.metadata()["config"]))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    model = MIMFlow(exported.trained_model)
    model.load_state_dict(tensors)
    wanted = state.ema if weights == "ema" else state.model
    for name, value in wanted.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name

    count = sum(value.numel() for value in wanted.state_dict().values())
    name = "ema" if weights == "ema" else "model"
    assert run(target) == 0
    assert f"{name} weights of step_00000006, {count:,} numbers" in capsys.readouterr().out
    assert run(target, "--json") == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == count
    assert run(target, "--verify") == 2
    assert "Expected a run folder with --verify" in capsys.readouterr().err


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_networks_are_exported_for_the_packages_alone(weights, config, tmp_path, capsys):
    shape = {"num_latents": 4, "latent_dim": 6, "kind": "mlp", "hidden_width": 8}
    teacher = FeatureDecoderConfig(grid=(4, 4), feature_dim=108, **shape)
    model = dataclasses.replace(config.model, features={"hog": teacher})
    folder = tmp_path / "run"
    folder.mkdir()
    state, _ = finish(dataclasses.replace(config, model=model, weights=weights), folder)
    target = tmp_path / "networks"
    assert run(folder, "--export", target) == 0
    name = "ema" if weights == "ema" else "model"
    assert capsys.readouterr().out.endswith(f"{name} weights of step_00000006 in {target}\n")
    said = json.loads((target / "run.json").read_text())
    assert (said["checkpoint"], said["weights"]) == ("step_00000006", name)
    assert from_dict(TrainConfig, said["config"]).seed == config.seed

    wanted = state.ema if weights == "ema" else state.model
    networks = {
        "encoder": (MaskedEncoder, wanted.encoder),
        "flow": (TarFlow, wanted.flow),
        "decoder": (PixelDecoder, wanted.decoder),
        "feature_decoders/hog": (FeatureDecoder, wanted.feature_decoders["hog"]),
    }
    for place, (kind, network) in networks.items():
        loaded = kind.from_pretrained(target / place)
        assert loaded.config == network.config
        for key, value in network.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value), (place, key)
    assert run(target) == 2
    assert "holds networks for other programs" in capsys.readouterr().err
    assert run(folder, "--export", target) == 2
    assert "a folder that is empty or not there; " in capsys.readouterr().err
    files = {path.parent.relative_to(target) for path in target.rglob("model.safetensors")}
    assert files == {Path(place) for place in networks}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), None], ids=str)
def test_networks_that_cannot_be_written_leave_nothing(
    error, config, tmp_path, capsys, monkeypatch
):
    folder, target = tmp_path / "run", tmp_path / "networks.v2"
    folder.mkdir()
    write_config(config, folder)
    state = TrainState(config, torch.device("cpu"))
    with torch.no_grad():
        next(state.ema.decoder.parameters()).fill_(torch.nan)
    write_checkpoint(snapshot(state), config, folder)
    if error is not None:
        monkeypatch.setattr("tarflow_prior.pretrained.save_file", Mock(side_effect=error))
    assert run(folder, "--export", target) == 6
    said = capsys.readouterr().err
    assert f"Expected to write networks to {target}; {'flow' if error else 'decoder'}: " in said
    assert ("Free some space" if error else "finite weights to save") in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_an_empty_folder_is_filled_under_its_name_and_rights(finished, tmp_path, monkeypatch):
    _, folder = finished
    shared, link = tmp_path / "shared", tmp_path / "link"
    shared.mkdir()
    shared.chmod(0o2775)
    link.symlink_to(shared)
    assert run(folder, "--export", link) == 0
    assert (link.is_symlink(), shared.stat().st_mode & 0o7777) == (True, 0o2775)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert run(folder, "--export", ".") == 0
    for exported in (shared, here):
        assert TarFlow.from_pretrained(exported / "flow").config.num_tokens == 4
    (folder / "run.json").write_text("{}")
    assert run(folder) == 0


@pytest.mark.parametrize("target", ["model.safetensors", "networks"])
def test_json_is_alone_on_stdout(finished, tmp_path, target, capsys):
    assert run(finished[1], "--json", "--export", tmp_path / "new" / target) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["steps"] == 6
    assert f"weights of step_00000006 in {tmp_path / 'new' / target}" in captured.err


def test_others_may_read_weights_as_they_may_read_the_rest(finished, tmp_path):
    _, folder = finished
    assert run(folder, "--export", tmp_path / "model.safetensors") == 0
    checkpoint = folder / "checkpoints" / "step_00000006"
    files = [*checkpoint.iterdir(), tmp_path / "model.safetensors", folder / "config.json"]
    assert len({path.stat().st_mode for path in files}) == 1


def test_convolutional_networks_are_exported_whole_only(config, tmp_path, capsys):
    shape = ConvolutionalConfig(widths=(32,) * 4, channels=6, token_size=1)
    model = dataclasses.replace(config.model, convolutional=shape)
    mask = MaskRatio(low=0.0, high=0.0)
    write_config(dataclasses.replace(config, model=model, mask=mask), tmp_path)
    assert run(tmp_path, "--export", tmp_path / "networks") == 2
    assert f"Write --export {tmp_path / 'networks'}.safetensors" in capsys.readouterr().err


def test_mistakes_are_one_sentence(config, tmp_path, capsys):
    assert run(tmp_path) == 2
    assert "Expected a run folder with a config.json" in capsys.readouterr().err
    write_config(config, tmp_path)
    assert run(tmp_path, "--export", tmp_path / "x.pt") == 2
    assert "--export FILE.safetensors, or a folder" in capsys.readouterr().err
    assert run(tmp_path, "--export", tmp_path / "x.safetensor") == 2
    assert "--export FILE.safetensors, or a folder" in capsys.readouterr().err
    assert run(tmp_path, "--export", tmp_path) == 2
    assert "a folder that is empty or not there; " in capsys.readouterr().err
    (tmp_path / "taken").touch()
    assert run(tmp_path, "--export", tmp_path / "taken") == 2
    assert f"{tmp_path / 'taken'} is neither. Give another name" in capsys.readouterr().err
    assert run(tmp_path, "--export", tmp_path / "x.safetensors") == 6
    assert "there is none. Train it first" in capsys.readouterr().err
