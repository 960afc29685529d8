"""A network in a folder; vit-decoder's are held to the same in its own tests."""

import json

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
def test_network_that_cannot_be_written_leaves_the_earlier_one_whole(folder, name):
    earlier = {path: path.read_bytes() for path in folder.iterdir()}
    (folder / f"{name}.partial").mkdir()  # in the way, as a full disk would be
    with pytest.raises((OSError, SafetensorError)):
        fresh(**KINDS["dropped"]).save_pretrained(folder)
    assert {path: path.read_bytes() for path in earlier} == earlier


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_and_damaged_files_are_named(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-20])
    with pytest.raises(ValueError, match=r"Expected a sound network in .*damaged"):
        MaskedEncoder.from_pretrained(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"Expected {name} in"):
        MaskedEncoder.from_pretrained(folder)


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
