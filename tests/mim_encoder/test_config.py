import subprocess
import sys
from dataclasses import asdict

import pytest
from tests.scripts import run_script

from mim_encoder import EncoderConfig, MaskRatio, TrunkConfig


@pytest.mark.parametrize("package", ["mim_encoder", "vit_decoder"])
def test_configs_import_without_torch(package):
    config = {"mim_encoder": "EncoderConfig", "vit_decoder": "DecoderConfig"}[package]
    code = (
        f"import sys; from {package} import {config}; {config}.preset('B'); "
        "assert not {'torch', 'timm', 'einops', 'jaxtyping'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_exported_name_exists():
    import mim_encoder

    assert dir(mim_encoder) == sorted(mim_encoder.__all__)
    assert all(getattr(mim_encoder, name).__name__ == name for name in mim_encoder.__all__)
    with pytest.raises(AttributeError, match="no attribute 'MaskEncoder'"):
        _ = mim_encoder.MaskEncoder


@pytest.mark.parametrize("name", ["tiny", "S", "B", "L", "XL"])
def test_presets_survive_a_round_trip_through_a_dict(name):
    config = EncoderConfig.preset(name)
    assert EncoderConfig(**asdict(config)) == config


def test_preset_b_is_the_default_and_tiny_is_the_demo():
    assert EncoderConfig.preset("B") == EncoderConfig()
    tiny = EncoderConfig.preset("tiny")
    assert (tiny.grid, tiny.num_patches, tiny.num_latents, tiny.latent_dim) == ((8, 8), 64, 16, 16)
    assert tiny.layer_scale is None


def test_overrides_replace_preset_fields():
    assert EncoderConfig.preset("L", num_latents=64, width=512) == EncoderConfig(
        width=512, depth=24, num_heads=16, num_latents=64
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 250}, "image_size divisible by patch_size=16; got 250. Choose .*=240"),
        ({"patch_size": 0}, "patch_size above 0; got 0"),
        ({"width": 100}, "width divisible by .* 48 .*; got 100. Choose width=144"),
        ({"depth": 0}, "depth above 0; got 0"),
        ({"num_heads": -1}, "num_heads above 0; got -1"),
        ({"mlp_ratio": 0.0}, "mlp_ratio above 0 and finite; got 0.0"),
        ({"num_latents": 0}, "num_latents above 0; got 0"),
        ({"latent_dim": 0}, "latent_dim above 0; got 0"),
        ({"sigma": -0.1}, "sigma >= 0 and finite; got -0.1"),
        ({"sigma": float("nan")}, "sigma >= 0 and finite; got nan"),
        ({"sigma": float("inf")}, "sigma >= 0 and finite; got inf. The paper uses 0.3"),
        ({"mlp_ratio": float("inf")}, "mlp_ratio above 0 and finite; got inf"),
        ({"layer_scale": float("nan")}, "layer_scale above 0 and finite; got nan"),
        ({"layer_scale": 0.0}, "layer_scale above 0 and finite; got 0.0"),
        ({"rope_theta": 0.0}, "rope_theta above 0 and finite; got 0.0"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_impossible_encoders_are_refused(fields, message):
    with pytest.raises(ValueError, match=f"^Expected {message}"):
        EncoderConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_prefix": -1}, "num_prefix >= 0; got -1"),
        ({"num_prefix": 1, "drop_path": 1.0}, r"drop_path in \[0, 1\); got 1.0"),
    ],
)
def test_impossible_trunks_are_refused(fields, message):
    with pytest.raises(ValueError, match=f"^Expected {message}"):
        TrunkConfig(width=8, depth=1, num_heads=1, **fields)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("b", r"Did you mean 'B'\?"),
        ("Tiny", r"Did you mean 'tiny'\?"),
        ("tniy", r"Did you mean 'tiny'\?"),
        ("xl", r"Did you mean 'XL'\?"),
        ("ViT-B", "Choose one of them."),
        ("", "Choose one of them."),
    ],
)
def test_unknown_preset_names_the_known_and_the_nearest(name, advice):
    message = f"^Expected a preset among tiny, S, B, L, XL; got {name!r}. {advice}$"
    with pytest.raises(ValueError, match=message):
        EncoderConfig.preset(name)


@pytest.mark.parametrize(
    ("low", "high"), [(0.6, 0.4), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 0.5)]
)
def test_impossible_mask_ratios_are_refused(low, high):
    with pytest.raises(ValueError, match="Expected 0 <= low <= high <= 1; got"):
        MaskRatio(low=low, high=high)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            "mim_encoder.EncoderConfig(bottleneck='cls')",
            "Expected bottleneck 'learnable-tokens', 'mae' or 'simmim'; got 'cls'. Choose one",
        ),
        (
            "mim_encoder.EncoderConfig(hidden_patches='drop')",
            "Expected hidden_patches 'mask-token' or 'dropped'; got 'drop'. Choose one",
        ),
        (
            "mim_encoder.MaskRatio(law='beta')",
            "Expected law 'truncnorm' or 'uniform'; got 'beta'. Choose one",
        ),
        (
            "vit_decoder.DecoderConfig(head='siren')",
            "Expected head 'linear' or 'refined'; got 'siren'. Choose one",
        ),
        (
            "vit_decoder.FeatureDecoderConfig(kind='vit')",
            "Expected kind 'transformer' or 'mlp'; got 'vit'. Choose one",
        ),
    ],
)
def test_unknown_choices_are_refused_where_nothing_checks_types(call, message):
    done = run_script(f"import mim_encoder, vit_decoder; {call}")
    assert f"ValueError: {message}" in done.stderr


PLAIN = """
import json
from dataclasses import asdict
import numpy as np
from mim_encoder import EncoderConfig, MaskRatio, TrunkConfig
from vit_decoder import DecoderConfig, FeatureDecoderConfig
sizes = {"width": 96, "depth": 2, "num_heads": 3}
latents = {"num_latents": 5, "latent_dim": 7}
floats = {"mlp_ratio": 2.0, "layer_scale": 0.25, "rope_theta": 8.0}
image = {"image_size": 32, "patch_size": 4}
for kind, given in (
    (TrunkConfig, sizes | floats | {"num_prefix": 1, "drop_path": 0.5}),
    (EncoderConfig, sizes | floats | latents | image | {"sigma": 0.5}),
    (EncoderConfig, sizes | latents | image | {"layer_scale": None}),
    (MaskRatio, {"low": 0.25, "high": 0.5, "per_sample": True}),
    (DecoderConfig, sizes | floats | latents | image | {"drop_path": 0.5}),
    (FeatureDecoderConfig, sizes | latents | {"grid": [4, 6], "feature_dim": 9, "hidden_width": 8}),
):
    def of_numpy(value):
        if isinstance(value, list):
            return [np.int64(each) for each in value]
        kinds = {bool: np.bool_, int: np.int64, float: np.float32}
        return kinds.get(type(value), lambda kept: kept)(value)

    plain, numpys = kind(**given), kind(**{name: of_numpy(each) for name, each in given.items()})
    again = kind(**json.loads(json.dumps(asdict(numpys))))
    assert {plain} == {numpys} == {again}, kind
    assert repr(plain) == repr(numpys) == repr(again)
"""


def test_numbers_of_numpy_and_lists_are_kept_as_plain_numbers_and_tuples():
    # In a process of its own, as a user runs it: the type checker of this run would speak first.
    done = run_script(PLAIN)
    assert done.returncode == 0, done.stderr
