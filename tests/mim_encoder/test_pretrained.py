"""A network in a folder; vit-decoder's are held to the same in its own tests."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mim_encoder import EncoderConfig, MaskedEncoder

SHAPE = {"image_size": 8, "patch_size": 4, "width": 16, "depth": 2, "num_heads": 2}
KINDS = {
    "learnable": {"num_latents": 2, "latent_dim": 3},
    "dropped": {"num_latents": 2, "latent_dim": 3, "hidden_patches": "dropped"},
    "scaled": {"num_latents": 2, "latent_dim": 3, "layer_scale": 0.1, "sigma": 0.5},
    "simmim": {"num_latents": 4, "latent_dim": 3, "bottleneck": "simmim"},
}


def fresh(seed=0, **fields):
    torch.manual_seed(seed)
    return MaskedEncoder(EncoderConfig(**{**SHAPE, "layer_scale": None, **fields}))


@pytest.fixture
def folder(tmp_path):
    fresh(**KINDS["learnable"]).save_pretrained(str(tmp_path / "encoder"))
    return tmp_path / "encoder"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_encoder_survives_a_folder(kind, dtype, tmp_path):
    encoder = fresh(**KINDS[kind]).to(dtype)
    image = torch.rand(2, 3, 8, 8, dtype=dtype)
    masked = torch.tensor([[True, True, False, False], [False, True, True, False]])
    encoder.save_pretrained(tmp_path)
    drawn = torch.random.get_rng_state()
    loaded = MaskedEncoder.from_pretrained(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert loaded.config == encoder.config
    for mask in (None, masked):
        assert torch.equal(loaded(image, mask).mean, encoder(image, mask).mean)
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_compiled_parts_are_saved_as_what_they_compile(tmp_path):
    encoder, image = fresh(**KINDS["learnable"]), torch.rand(2, 3, 8, 8)
    wanted = encoder(image).mean
    encoder.trunk.blocks[0] = torch.compile(encoder.trunk.blocks[0], backend="eager")
    encoder.save_pretrained(tmp_path)
    assert torch.equal(MaskedEncoder.from_pretrained(tmp_path)(image).mean, wanted)


def test_weights_that_could_not_be_loaded_are_not_saved(tmp_path):
    encoder = fresh(**KINDS["learnable"])
    torch.nn.utils.parametrizations.weight_norm(encoder.to_latent)
    message = (
        r"Expected to_latent\.parametrizations\.weight\.original0 to be no such weight by "
        r"config\.json; got \(3, 1\) in the network\. Remove parametrizations"
    )
    with pytest.raises(ValueError, match=message):
        encoder.save_pretrained(tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()


CONFIGS = {
    "an unknown field": ({"widths": 16}, r"unknown field 'widths' \(did you mean 'width'\?\)"),
    "another network": ({"latent_dim": 5}, r"to_latent\.bias to be \(5,\) by .*got \(3,\) in"),
    "out of range": ({"depth": 0}, r"Expected depth above 0; got 0\. .* said in .*config\.json"),
    "another type": ({"sigma": "0.3"}, r"(?s)sigma.* said in .*config\.json"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_that_does_not_fit_is_refused(name, folder):
    change, message = CONFIGS[name]
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | change))
    with pytest.raises(ValueError, match=message):
        MaskedEncoder.from_pretrained(folder)


def test_config_that_is_no_object_is_refused(folder):
    (folder / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"fields of EncoderConfig in .*config\.json; got list"):
        MaskedEncoder.from_pretrained(folder)


def test_missing_and_extra_weights_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    bias = weights.pop("to_latent.bias")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"to_latent\.bias to be \(3,\) .*got no such weight"):
        MaskedEncoder.from_pretrained(folder)
    weights |= {"to_latent.bias": bias, "ema": bias.clone()}
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"ema to be no such weight .*got \(3,\)"):
        MaskedEncoder.from_pretrained(folder)


def test_a_file_in_the_folders_place_is_kept(tmp_path):
    path = tmp_path / "notes"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"Expected a folder; got the file .*notes"):
        fresh(**KINDS["learnable"]).save_pretrained(path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_network_that_cannot_be_written_leaves_the_earlier_one_whole(folder, monkeypatch, name):
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
        monkeypatch.setattr("mim_encoder.pretrained.save_file", full_disk)
    with pytest.raises((OSError, SafetensorError), match="No space left"):
        fresh(**KINDS["dropped"]).save_pretrained(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == earlier


def test_a_save_that_is_killed_leaves_no_network_of_two(folder, monkeypatch):
    def killed(path, target):
        if path.name == "config.json" and path.parent.name == ".draft":
            raise KeyboardInterrupt
        return rename(path, target)

    rename = Path.replace
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        fresh(**KINDS["scaled"]).save_pretrained(folder)
    with pytest.raises(FileNotFoundError, match=r"Expected config\.json in"):
        MaskedEncoder.from_pretrained(folder)


def test_weights_that_cannot_be_replaced_leave_the_earlier_ones_whole(folder, monkeypatch):
    def held(path, target):
        if path.name == "model.safetensors":
            raise PermissionError("another process reads it")
        return rename(path, target)

    earlier = {path: path.read_bytes() for path in folder.iterdir()}
    rename = Path.replace
    monkeypatch.setattr(Path, "replace", held)
    with pytest.raises(PermissionError):
        fresh(**KINDS["scaled"]).save_pretrained(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == earlier


def test_what_a_killed_save_left_is_removed_by_the_next(folder):
    (folder / ".draft").mkdir()
    (folder / ".draft" / "model.safetensors").write_bytes(b"half")
    fresh(**KINDS["scaled"]).save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_others_may_read_both_files(folder):
    (folder / "mine").touch()
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_and_damaged_files_are_named(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-20])
    with pytest.raises(ValueError, match=rf"Expected (JSON|whole weights) in .*{name}; got"):
        MaskedEncoder.from_pretrained(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"Expected {name} in"):
        MaskedEncoder.from_pretrained(folder)


UNSOUND = {
    "meta": (lambda encoder: encoder.to("meta"), r"got no values, on the meta device, in mask_"),
    "two precisions": (
        lambda encoder: encoder.trunk.half(),
        r"one floating dtype to save; got torch\.float16 in trunk\S+ beside torch\.float32",
    ),
    "integers": (
        lambda encoder: encoder.to(torch.float32).load_state_dict(
            {name: value.char() for name, value in encoder.state_dict().items()}, assign=True
        ),
        r"one floating dtype to save; got torch\.int8 in",
    ),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_weights_that_no_network_runs_in_are_not_saved(name, tmp_path):
    change, message = UNSOUND[name]
    encoder = fresh(**KINDS["learnable"]).requires_grad_(requires_grad=False)
    change(encoder)
    with pytest.raises(ValueError, match=message):
        encoder.save_pretrained(tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()


def test_weights_laid_out_otherwise_are_saved(tmp_path):
    encoder = fresh(**KINDS["learnable"])
    encoder.to_latent.weight = torch.nn.Parameter(
        encoder.to_latent.weight.detach().T.contiguous().T
    )
    assert not encoder.to_latent.weight.is_contiguous()
    encoder.save_pretrained(tmp_path)
    loaded = MaskedEncoder.from_pretrained(tmp_path)
    assert torch.equal(loaded.to_latent.weight, encoder.to_latent.weight)


def test_what_a_subclass_adds_is_saved_and_not_compared(tmp_path):
    class Own(MaskedEncoder):
        def __init__(self):
            super().__init__(EncoderConfig(**SHAPE, **KINDS["learnable"]))
            self.norm = torch.nn.BatchNorm1d(3)  # counts in a buffer of integers

    Own().save_pretrained(tmp_path)
    assert "norm.num_batches_tracked" in load_file(tmp_path / "model.safetensors")


def test_non_finite_weights_are_neither_saved_nor_loaded(folder, tmp_path):
    encoder = fresh(**KINDS["learnable"])
    with torch.no_grad():
        encoder.positions[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"finite weights to save; .* in positions"):
        encoder.save_pretrained(tmp_path / "other")
    assert not (tmp_path / "other").exists()
    weights = load_file(folder / "model.safetensors")
    weights["positions"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"finite weights to load; .* in positions"):
        MaskedEncoder.from_pretrained(folder)
