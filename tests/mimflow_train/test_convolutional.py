"""SD-VAE's autoencoder in the place of the ViTs: layout, scale, published weights, refusals."""

import dataclasses
import importlib.util

import pytest
import torch
from safetensors.torch import save_file

from mim_encoder import MaskRatio
from mimflow_train.config import ConvolutionalConfig
from mimflow_train.convolutional import (
    SD_VAE_FILE,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    read_sd_vae,
)
from mimflow_train.errors import ConfigError, WeightsError
from mimflow_train.frozen.weights import find_weights
from mimflow_train.model import MIMFlow
from mimflow_train.recipes import IMAGENET_CLASSES, paper
from mimflow_train.teachers import needed_files

SMALL = ConvolutionalConfig(widths=(8, 16), num_blocks=1, num_groups=4)


@pytest.fixture
def image():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def theirs():
    """The same network as diffusers runs it, of random numbers."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )


@pytest.fixture
def halves():
    return ConvolutionalEncoder(SMALL, 0.3), ConvolutionalDecoder(SMALL)


def convolutional(config, **changes):
    model = config.model.with_convolutions(dataclasses.replace(SMALL, **changes))
    return dataclasses.replace(config, model=model, mask=MaskRatio(low=0.0, high=0.0))


@pytest.mark.parametrize("old", [False, True])
def test_it_is_diffusers_network_with_the_published_weights(tmp_path, image, theirs, halves, old):
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, value in theirs.state_dict().items():
        for new, former in names.items() if old else ():
            name = name.replace(f".{new}.", f".{former}.")
        tensors[name] = value.contiguous()
    assert any(".query." in name for name in tensors) == old
    save_file(tensors, tmp_path / "vae.safetensors")
    encoder, decoder = halves
    read_sd_vae(encoder, decoder, tmp_path / "vae.safetensors")

    latents = theirs.encode(image).latent_dist.mean
    posterior = encoder(image)
    assert posterior.mean.shape == (2, 16, 16)
    # The second token lies right of the first: the next two columns of the first two rows.
    square = latents[0, :, 0:2, 2:4].flatten()
    torch.testing.assert_close(posterior.mean[0, 1], square)
    torch.testing.assert_close(decoder(posterior.mean), theirs.decode(latents).sample)


def test_latents_are_brought_to_a_deviation_and_back(image, halves):
    encoder, decoder = halves
    mean = encoder(image).mean
    rebuilt = decoder(mean)
    for part in halves:
        part.scale.fill_(4.0)
    torch.testing.assert_close(encoder(image).mean, mean / 4)
    torch.testing.assert_close(decoder(mean / 4), rebuilt)


@pytest.mark.parametrize("change", ["less", "more"])
def test_weights_of_another_network_are_refused(tmp_path, theirs, halves, change):
    tensors = {name: value.contiguous() for name, value in theirs.state_dict().items()}
    if change == "less":
        del tensors["quant_conv.bias"]
    else:
        tensors["decoder.more.weight"] = torch.zeros(1)
    save_file(tensors, tmp_path / "vae.safetensors")
    wanted = "quant_conv.bias" if change == "less" else "1 tensors too many, such as decoder.more"
    with pytest.raises(WeightsError, match=f"Expected the weights of SD-VAE in .*{wanted}"):
        read_sd_vae(*halves, tmp_path / "vae.safetensors")


def test_weights_that_cannot_be_had_are_described(tmp_path):
    environment = {"MIMFLOW_WEIGHTS": str(tmp_path), "MIMFLOW_OFFLINE": "1"}
    with pytest.raises(WeightsError, match=r"sd-vae-ft-ema.* there under that name\.$"):
        find_weights(SD_VAE_FILE, environment)


def test_a_fixed_sd_vae_needs_its_file():
    base = paper("L", IMAGENET_CLASSES, "imagenet")
    model = base.model.with_convolutions(ConvolutionalConfig(fixed=True))
    config = dataclasses.replace(base, model=model, mask=MaskRatio(low=0.0, high=0.0))
    assert SD_VAE_FILE in needed_files(config, joint_phase=True, decoder_phase=False)
    assert SD_VAE_FILE not in needed_files(base, joint_phase=True, decoder_phase=False)


def test_the_adversarys_weight_is_taken_at_a_weight_of_the_decoder(halves):
    _, decoder = halves
    assert any(each is decoder.last_layer for each in decoder.parameters())
    assert decoder.last_layer.shape[0] == 3


def test_masks_are_refused(config):
    model = config.model.with_convolutions(SMALL)
    with pytest.raises(ConfigError, match=r"sees whole images; got 0\.4 to 0\.6"):
        dataclasses.replace(config, model=model)


def test_a_fixed_autoencoder_is_not_sharded(config):
    with pytest.raises(ConfigError, match="shard=False where the autoencoder is fixed"):
        dataclasses.replace(convolutional(config, fixed=True), shard=True)


def test_latents_of_another_shape_are_refused(config):
    with pytest.raises(ConfigError, match=r"the convolutional latents, \(16, 16\); got \(4, 6\)"):
        dataclasses.replace(config.model, convolutional=SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_blocks": 0}, r"convolutional\.num_blocks >= 1; got 0"),
        ({"widths": (8, 9)}, r"that 4 groups divide; got \(8, 9\)"),
        ({"widths": ()}, r"convolutional\.widths"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SMALL, **change)


def test_images_that_tokens_do_not_tile_are_refused():
    with pytest.raises(ConfigError, match="tokens of 4 px tile; got 18 px"):
        SMALL.num_latents(18)


def test_a_missing_package_is_one_sentence(config, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"package diffusers .* mimflow-train\[baselines\]"):
        MIMFlow(convolutional(config).model)
