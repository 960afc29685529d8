import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tests.tarflow_prior.strategies import configured, few, shapes

from tarflow_prior import TarFlow


@given(shapes())
@few
def test_flow_survives_a_folder(tmp_path_factory, random_flow, random_batch, shape):
    config = configured(shape)
    folder = tmp_path_factory.mktemp("flow")
    flow = random_flow(config)
    flow.save_pretrained(folder)
    loaded = TarFlow.from_pretrained(folder)
    z, label = random_batch(config)
    assert loaded.config == config
    assert loaded.dtype == torch.float64
    for name, weight in flow.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    torch.testing.assert_close(loaded(z, label).u, flow(z, label).u, atol=1e-9, rtol=0)
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("whole", [False, True], ids=["layer", "block"])
def test_flow_with_compiled_parts_survives_a_folder(
    config, random_flow, random_batch, tmp_path, whole
):
    flow, (z, label) = random_flow(config), random_batch(config)
    wanted = flow(z, label).u
    parts = flow.blocks if whole else flow.blocks[1].layers
    parts[0] = torch.compile(parts[0])
    flow.save_pretrained(tmp_path / "flow")
    assert torch.equal(TarFlow.from_pretrained(tmp_path / "flow")(z, label).u, wanted)


def test_weights_that_could_not_be_loaded_are_not_saved(config, random_flow, tmp_path):
    flow = random_flow(config)
    torch.nn.utils.parametrizations.weight_norm(flow.blocks[1].layers[0].mlp_in)
    message = (
        r"Expected blocks\.1\.layers\.0\.mlp_in\.parametrizations\.weight\.original0 to be no such "
        r"weight by config\.json; got \(64, 1\) in the flow\..*remove_parametrizations"
    )
    with pytest.raises(ValueError, match=message):
        flow.save_pretrained(tmp_path / "flow")
    assert not (tmp_path / "flow").exists()


def test_weights_of_another_dtype_are_not_saved(config, random_flow, tmp_path):
    flow = random_flow(config).bfloat16()
    message = r"in torch\.float32; got torch\.bfloat16 in the flow\. Call flow\.float\(\) first"
    with pytest.raises(ValueError, match=message):
        flow.save_pretrained(tmp_path / "flow")
    assert not (tmp_path / "flow").exists()


def test_a_subclass_may_be_made_otherwise(config, tmp_path):
    class Own(TarFlow):
        def __init__(self):
            super().__init__(config)

    Own().save_pretrained(tmp_path / "flow")
    assert TarFlow.from_pretrained(tmp_path / "flow").config == config


@pytest.fixture
def folder(config, random_flow, tmp_path):
    random_flow(config).save_pretrained(str(tmp_path / "flow"))
    return tmp_path / "flow"


def test_unknown_field_is_refused_by_name(folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"gates": "none"}))
    with pytest.raises(ValueError, match=r"unknown field 'gates'.*did you mean 'gate'"):
        TarFlow.from_pretrained(folder)


def test_config_of_another_flow_is_refused_by_weight(folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"num_classes": 5}))
    with pytest.raises(ValueError, match=r"blocks\.0\.classes to be \(5, 16\).*got \(4, 16\)"):
        TarFlow.from_pretrained(folder)


def test_missing_and_extra_weights_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    head = weights.pop("blocks.2.head.bias")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"blocks\.2\.head\.bias to be \(6,\).*got no such weight"):
        TarFlow.from_pretrained(folder)
    save_file(
        {**weights, "blocks.2.head.bias": head, "ema": head.clone()}, folder / "model.safetensors"
    )
    with pytest.raises(ValueError, match=r"ema to be no such weight .*got \(6,\)"):
        TarFlow.from_pretrained(folder)


def test_weights_of_mixed_precision_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    weights["blocks.1.head.bias"] = weights["blocks.1.head.bias"].half()
    save_file(weights, folder / "model.safetensors")
    message = r"blocks\.1\.head\.bias in torch.float64; got torch.float16"
    with pytest.raises(ValueError, match=message):
        TarFlow.from_pretrained(folder)


def test_a_file_in_the_folders_place_is_kept(config, random_flow, tmp_path):
    path = tmp_path / "notes"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"Expected a folder; got the file .*notes"):
        random_flow(config).save_pretrained(path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_flow_that_cannot_be_written_leaves_the_earlier_one_whole(
    folder, config, monkeypatch, name
):
    earlier = {path: path.read_bytes() for path in folder.iterdir()}

    def full_disk(_, path):
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device")

    def no_text(path, _):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    if name == "config.json":
        monkeypatch.setattr(Path, "write_text", no_text)
    else:
        monkeypatch.setattr("tarflow_prior.pretrained.save_file", full_disk)
    with pytest.raises((OSError, SafetensorError), match="No space left"):
        TarFlow(replace(config, num_classes=0)).save_pretrained(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == earlier


def test_a_save_that_is_killed_leaves_no_flow_of_two(folder, config, monkeypatch):
    def killed(path, target):
        if path.name == "config.json" and path.parent.name == ".draft":
            raise KeyboardInterrupt
        return rename(path, target)

    rename = Path.replace
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        TarFlow(replace(config, scale="softplus")).double().save_pretrained(folder)
    with pytest.raises(FileNotFoundError, match=r"Expected config\.json in"):
        TarFlow.from_pretrained(folder)


def test_weights_that_cannot_be_replaced_leave_the_earlier_ones_whole(folder, config, monkeypatch):
    def held(path, target):
        if path.name == "model.safetensors":
            raise PermissionError("another process reads it")
        return rename(path, target)

    earlier = {path: path.read_bytes() for path in folder.iterdir()}
    rename = Path.replace
    monkeypatch.setattr(Path, "replace", held)
    with pytest.raises(PermissionError):
        TarFlow(replace(config, scale="softplus")).double().save_pretrained(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == earlier


def test_what_a_killed_save_left_is_removed_by_the_next(folder, config):
    (folder / ".draft").mkdir()
    (folder / ".draft" / "model.safetensors").write_bytes(b"half")
    TarFlow(replace(config, scale="softplus")).double().save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_others_may_read_both_files(folder):
    (folder / "mine").touch()
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"Expected {name} in"):
        TarFlow.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_damaged_file_is_said(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:-20])
    with pytest.raises(ValueError, match="damaged"):
        TarFlow.from_pretrained(folder)


def test_non_finite_weights_are_neither_saved_nor_loaded(folder, config, random_flow, tmp_path):
    flow = random_flow(config)
    with torch.no_grad():
        flow.blocks[1].positions[0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"finite weights to save; .* in blocks\.1\.positions"):
        flow.save_pretrained(tmp_path / "other")
    assert not (tmp_path / "other").exists()
    weights = load_file(folder / "model.safetensors")
    weights["blocks.1.positions"][0, 0] = float("inf")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"finite weights to load; .* in blocks\.1\.positions"):
        TarFlow.from_pretrained(folder)
