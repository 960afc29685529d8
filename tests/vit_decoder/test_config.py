from dataclasses import asdict

import pytest

import vit_decoder
from mim_encoder import EncoderConfig
from vit_decoder import DecoderConfig, FeatureDecoderConfig

PRESETS = ["tiny", "S", "B", "L", "XL"]


def test_every_exported_name_exists():
    assert dir(vit_decoder) == sorted(vit_decoder.__all__)
    assert all(getattr(vit_decoder, name).__name__ == name for name in vit_decoder.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Decoder'"):
        _ = vit_decoder.Decoder


@pytest.mark.parametrize("name", PRESETS)
def test_presets_mirror_the_encoders(name):
    decoder, encoder = asdict(DecoderConfig.preset(name)), asdict(EncoderConfig.preset(name))
    assert decoder.pop("drop_path") == (0.0 if name == "tiny" else 0.05)
    assert decoder.pop("head") == "linear"
    assert encoder.pop("sigma") == 0.3
    assert encoder.pop("bottleneck") == "learnable-tokens"
    assert encoder.pop("hidden_patches") == "mask-token"
    assert decoder == encoder


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_a_round_trip_through_a_dict(name):
    config = DecoderConfig.preset(name, num_latents=7)
    assert DecoderConfig(**asdict(config)) == config
    assert config.num_latents == 7


def test_tiny_drop_path_can_be_overridden():
    assert DecoderConfig.preset("tiny", drop_path=0.1).drop_path == 0.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 8}, "image_size divisible by patch_size=16; got 8. Choose image_size=16"),
        ({"width": 770}, "width divisible by .* 48 .*; got 770"),
        ({"num_latents": 0}, "num_latents above 0; got 0"),
        ({"drop_path": -0.1}, r"drop_path in \[0, 1\); got -0.1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_impossible_decoders_are_refused(fields, message):
    with pytest.raises(ValueError, match=f"^Expected {message}"):
        DecoderConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grid": (0, 4)}, "rows above 0; got 0"),
        ({"feature_dim": 0}, "feature_dim above 0; got 0"),
        ({"hidden_width": 0}, "hidden_width above 0; got 0"),
        ({"width": 190}, "width divisible by"),
        (
            {"kind": "mlp", "num_latents": 192},
            "num_latents to divide the 16x16 places.*; got 192. Choose kind='transformer'",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_impossible_feature_decoders_are_refused(fields, message):
    with pytest.raises(ValueError, match=f"^Expected {message}"):
        FeatureDecoderConfig(**fields)
