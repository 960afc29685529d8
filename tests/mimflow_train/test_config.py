import dataclasses
import json
import re

import pytest

from mimflow_train.config import TrainConfig
from mimflow_train.config_file import from_dict, read_config, to_dict, write_config
from mimflow_train.errors import ConfigError
from mimflow_train.overrides import override
from mimflow_train.recipes import RECIPES, tiny


@pytest.mark.parametrize("scale", RECIPES)
def test_json_round_trip_keeps_a_recipe(scale):
    config = RECIPES[scale](("a", "b"), "somewhere")
    assert from_dict(TrainConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_unknown_field_in_a_file_is_named():
    tree = to_dict(tiny())
    tree["optim"]["momentum"] = 0.9
    with pytest.raises(ConfigError, match="OptimConfig; got momentum"):
        from_dict(TrainConfig, tree)


def test_missing_field_in_a_file_is_named():
    tree = to_dict(tiny())
    del tree["model"]["flow"]["width"]
    with pytest.raises(ConfigError, match="width"):
        from_dict(TrainConfig, tree)


def test_run_folder_keeps_the_config(tmp_path):
    write_config(tiny(), tmp_path / "run")
    assert read_config(tmp_path / "run") == tiny()


def test_broken_file_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json; Expecting"):
        read_config(tmp_path)


def test_parts_that_disagree_on_the_latents_are_refused():
    model = tiny().model
    flow = dataclasses.replace(model.flow, num_tokens=5)
    with pytest.raises(
        ConfigError, match=r"flow.num_tokens and token_dim to equal the encoder's latents"
    ):
        dataclasses.replace(model, flow=flow)


def test_override_sets_nested_values_of_each_type():
    config = override(
        tiny(), ["optim.lr=3", "model.flow.depths=(1,2)", "precision=fp32", "data.flip=true"]
    )
    assert (config.optim.lr, config.model.flow.depths) == (3.0, (1, 2))
    assert (config.precision, config.data.flip) == ("fp32", True)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optim.lrr=1", "no optim.lrr. Did you mean lr?"),
        ("optim.lr=fast", "optim.lr as a number; got 'fast'"),
        ("optim.lr=-1", "optim.lr > 0; got -1"),
        ("steps=1.5", "steps as a whole number"),
        ("model.flow=3", "model.flow has several"),
        ("model.features=dino", "teachers among efflite0, hog, dinov2, clip; got dino"),
        ("optim.lr.x=3", "no optim.lr.x"),
        ("optim", "Expected --set key=value"),
        ("precision=fp8", "precision"),
        ("mask.low=0.9", "low <= high"),
        ("loss.perceptual_network=vgg", "loss.perceptual_network"),
        ("loss.nll=-1", "loss.nll >= 0"),
        (
            "model.encoder.image_size=64",
            "decoder.image_size to equal encoder.image_size, 64; got 32",
        ),
        ("model.flow.num_classes=5", "num_classes to equal the data's classes, 12; got 5"),
        ("model.features.efflite0.feature_dim=7", "the teacher's width, 112; got 7"),
        ("optim.betas=(0.9,)", "optim.betas as a tuple such as (0.5, 0.5)"),
        ("optim.betas=(0.9,2.0)", "optim.betas two numbers"),
        ("optim.clip_norm=-1.0", "optim.clip_norm > 0; got -1"),
        ("model.flow.depths=(1,'x')", "model.flow.depths as a tuple such as (2, 2)"),
    ],
)
def test_override_says_what_is_wrong(assignment, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        override(tiny(), [assignment])


def test_teachers_are_chosen_by_name():
    config = override(tiny(), ["model.features.hog.depth=1", "model.features=dinov2,hog"])
    shape, features = tiny().model.features["efflite0"], config.model.features
    assert features == {
        "dinov2": dataclasses.replace(shape, feature_dim=768),
        "hog": dataclasses.replace(shape, feature_dim=108, depth=1),
    }
    assert override(tiny(), ["model.features=none"]).model.features == {}


def test_a_choice_called_none_can_be_set():
    assert override(tiny(), ["model.flow.gate=none"]).model.flow.gate == "none"
