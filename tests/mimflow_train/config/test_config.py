import dataclasses
import itertools
import json
import math
import re
from pathlib import Path

import pytest
from tests.scripts import run_script

from mim_encoder import MaskRatio
from mimflow_train.config import ConvolutionalConfig, TrainConfig
from mimflow_train.config.file import from_dict, read_config, read_values, to_dict, write_config
from mimflow_train.config.overrides import merge, override
from mimflow_train.errors import ConfigError
from mimflow_train.recipes import RECIPES, paper, tiny
from tarflow_prior import Guidance


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


def test_guidance_of_scale_zero_is_none():
    config = tiny()
    assert config.own_guidance == Guidance(3.0)
    assert dataclasses.replace(config, guidance=0.0).own_guidance is None


def test_the_flow_knows_the_classes_of_the_images():
    config = tiny()
    flow = dataclasses.replace(config.model.flow, num_classes=5)
    with pytest.raises(ConfigError, match="num_classes to equal the data's classes, 12; got 5"):
        dataclasses.replace(config, model=dataclasses.replace(config.model, flow=flow))


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
        ("model.flow=3", "model.flow as a section with num_tokens, token_dim, width"),
        ("model.features=dino", "teachers among efflite0, hog, dinov2, clip; got dino"),
        ("optim.lr.x=3", "optim.lr as a number; got {'x': '3'}"),
        ("optim", "Expected --set key=value"),
        ("precision=fp8", "precision"),
        ("mask.low=0.9", "low <= high"),
        (
            "model.encoder.hidden_patches=dropped mask.per_sample=true",
            "mask.per_sample=False with model.encoder.hidden_patches=dropped",
        ),
        ("model.encoder.sigma=0", "model.encoder.sigma > 0, since the likelihood of latents"),
        ("loss.perceptual_network=vgg", "loss.perceptual_network"),
        ("loss.nll=-1", "loss.nll >= 0"),
        (
            "model.encoder.image_size=64",
            "decoder.image_size to equal encoder.image_size, 64; got 32",
        ),
        (
            "model.flow.num_classes=5",
            "Expected --data, which decides model.flow.num_classes and more; got --set model.flow",
        ),
        ("data.source=pets/", "got --set data.source=pets/. Give --data."),
        ("scale=L", "got --set scale=L. Give --scale."),
        ("model.features.efflite0.feature_dim=7", "the teacher's width, 112; got 7"),
        ("optim.betas=(0.9,)", "optim.betas as a tuple such as (0.5, 0.5)"),
        ("optim.betas=(0.9,2.0)", "optim.betas two numbers"),
        ("optim.clip_norm=-1.0", "optim.clip_norm > 0; got -1"),
        ("model.flow.depths=(1,'x')", "model.flow.depths as a tuple such as (2, 2)"),
    ],
)
def test_override_says_what_is_wrong(assignment, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        override(tiny(), assignment.split())


EDITED = """
import dataclasses
from mimflow_train.config import TrainConfig
from mimflow_train.config.file import from_dict, to_dict
from mimflow_train.errors import ConfigError
from mimflow_train.recipes import tiny

def said(work):
    try:
        print("took it", work())
    except ConfigError as error:
        print(error)

for path in (
    "precision", "weights", "optim.schedule", "loss.perceptual_network",
    "decoder_phase.optim.schedule", "decoder_phase.discriminator.kind",
):
    *sections, name = path.split(".")
    tree = to_dict(tiny())
    section, config = tree, tiny()
    for each in sections:
        section, config = section[each], getattr(config, each)
    section[name] = "sometimes"
    said(lambda: from_dict(TrainConfig, tree))
    said(lambda: dataclasses.replace(config, **{name: "sometimes"}))
"""


def test_a_word_that_is_no_choice_is_refused_in_an_edited_file_and_in_python():
    choices = {
        "precision": "auto or fp32 or bf16",
        "weights": "ema or raw",
        "optim.schedule": "constant or cosine",
        "loss.perceptual_network": "efflite0 or lpips",
    }
    choices = [*choices.items(), ("optim.schedule", "constant or cosine")]
    choices.append(("decoder_phase.discriminator.kind", "patch or dino"))
    assert run_script(EDITED).stdout.splitlines() == [
        f"Expected {name} {words}; got sometimes. Choose one of them."
        for name, words in choices
        for _ in range(2)
    ]


def test_teachers_are_chosen_by_name():
    config = override(tiny(), ["model.features.hog.depth=1", "model.features=dinov2,hog"])
    shape, features = tiny().model.features["efflite0"], config.model.features
    assert features == {
        "dinov2": dataclasses.replace(shape, feature_dim=768),
        "hog": dataclasses.replace(shape, feature_dim=108, depth=1),
    }
    assert override(tiny(), ["model.features=none"]).model.features == {}


@pytest.mark.parametrize(
    "assignments",
    [
        ["decoder_phase.gan_weight=0.1", "decoder_phase.optim.lr=1e-3", "decoder_phase=rae"],
        ["model.flow.token_dim=8", "model.decoder.latent_dim=8", "model.latent_dim=4"],
        [
            "model.convolutional.num_groups=8",
            "model.convolutional.widths=(32,64,128)",
            "mask.low=0.0",
            "mask.high=0.0",
        ],
    ],
    ids=["decoder phase", "shared", "convolutional"],
)
def test_the_order_of_changes_does_not_matter(assignments):
    def changed(order):
        try:
            return override(tiny(), order)
        except ConfigError as error:
            return str(error).partition(": ")[2]

    first = changed(assignments)
    assert all(changed(order) == first for order in itertools.permutations(assignments))
    if "decoder_phase=rae" in assignments:
        assert (first.decoder_phase.gan_weight, first.decoder_phase.optim.lr) == (0.1, 1e-3)
        assert first.decoder_phase.optim.clip_norm == tiny().decoder_phase.optim.clip_norm


def test_a_choice_called_none_can_be_set():
    assert override(tiny(), ["model.flow.gate=none"]).model.flow.gate == "none"


@pytest.mark.parametrize("scale", RECIPES)
def test_a_whole_configuration_in_a_file_takes_the_place_of_any_recipe(scale):
    wanted = override(
        RECIPES[scale](("a", "b"), "here"),
        ["model.features=hog,clip", "decoder_phase=rae", "optim.betas=(0.8,0.9)", "seed=3"],
    )
    values = json.loads(json.dumps(to_dict(wanted)))
    assert merge(RECIPES["tiny"](("a", "b"), "here"), values, "f.json") == wanted


def test_a_file_may_have_a_part_of_the_configuration_in_short_words(tmp_path):
    (tmp_path / "f.toml").write_text(
        'decoder_phase = "rae"\nmodel.features = ["hog"]\nmodel.flow.depths = [1, 2]\n'
        "steps = 7\nmodel.encoder.layer_scale = 1\n[optim]\nlr = 1\nbetas = [0, 0.5]\n"
    )
    short = ["decoder_phase=rae", "model.features=hog", "model.flow.depths=(1,2)", "steps=7"]
    numbers = ["model.encoder.layer_scale=1.0", "optim.lr=1.0", "optim.betas=(0.0,0.5)"]
    wanted = override(tiny(), short + numbers)
    assert merge(tiny(), read_values(tmp_path / "f.toml"), "f.toml") == wanted


def test_a_convolutional_autoencoder_may_come_from_a_file():
    wanted = dataclasses.replace(
        tiny(),
        model=tiny().model.with_convolutions(ConvolutionalConfig(widths=(32, 32, 32))),
        mask=MaskRatio(low=0.0, high=0.0),
    )
    assert merge(tiny(), json.loads(json.dumps(to_dict(wanted))), "f.json") == wanted


def test_images_decide_their_classes_whatever_a_file_says():
    values = to_dict(tiny(("a", "b"), "there"))
    values["data"]["fingerprint"] = "old"
    assert merge(tiny(("x", "y", "z"), "here"), values, "f.json") == tiny(("x", "y", "z"), "here")


def test_sizes_that_networks_share_are_set_in_all_of_them():
    model = override(
        paper("S", ("a", "b"), "x"),
        ["model.image_size=512", "model.patch_size=32", "model.latent_dim=8"],
    ).model
    assert (model.encoder.image_size, model.decoder.image_size) == (512, 512)
    assert (model.encoder.patch_size, model.decoder.patch_size) == (32, 32)
    assert {each.grid for each in model.features.values()} == {(16, 16)}
    dims = [model.encoder.latent_dim, model.decoder.latent_dim, model.flow.token_dim]
    assert {*dims, *(each.latent_dim for each in model.features.values())} == {8}
    filed = merge(tiny(), {"model": {"image_size": 64, "num_latents": 32}}, "mine.toml").model
    assert {each.grid for each in filed.features.values()} == {(8, 8)}
    counts = [filed.encoder.num_latents, filed.decoder.num_latents, filed.flow.num_tokens]
    assert {*counts, *(each.num_latents for each in filed.features.values())} == {32}
    with pytest.raises(ConfigError, match="Did you mean num_latents"):
        override(tiny(), ["model.num_latent=8"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optim": {"lrr": 1}}, "no optim.lrr. Did you mean lr?"),
        ({"optim": {"lr": True}}, "optim.lr as a number; got True"),
        ({"optim": {"lr": "fast"}}, "optim.lr as a number; got 'fast'"),
        ({"optim": {"lr": -1}}, "optim.lr > 0; got -1"),
        ({"optim": 3}, "optim as a section with lr, betas"),
        ({"steps": {"joint": 3}}, "steps as a whole number; got {'joint': 3}"),
        ({"model": {"features": ["dino"]}}, "teachers among efflite0, hog, dinov2, clip; got dino"),
        (
            {"decoder_phase": {"gan_weight": math.nan}},
            "a finite decoder_phase.gan_weight >= 0; got nan",
        ),
        ({"decoder_phase": {"lecam_weight": math.inf}}, "decoder_phase.lecam_weight >= 0; got inf"),
        ({"decoder_phase": "gan"}, "decoder phase of released or rae; got gan"),
        ({"model": {"convolutional": {"width": 1}}}, "convolutional.width. Did you mean widths?"),
    ],
)
def test_a_file_s_mistake_is_named_with_the_file(values, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        merge(tiny(), values, "mine.toml")
    assert str(caught.value).startswith("mine.toml: ")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("no.toml", None, "there is no"),
        ("a.yaml", "lr: 3", r"a .toml or .json file, or a run's folder; got"),
        ("a.toml", "lr: 3", r"Expected TOML in .*a.toml; Expected '='"),
        ("a.json", "[3]", r"names and values in .*a.json; got \[3\]"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(name, text, message, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_values(tmp_path / name)


def test_the_readme_s_file_is_a_recipe(tmp_path):
    readme = Path(__file__).parents[3] / "packages" / "mimflow-train" / "README.md"
    (tmp_path / "mine.toml").write_text(readme.read_text().split("```toml\n")[1].split("```")[0])
    config = merge(RECIPES["L"](("a", "b"), "here"), read_values(tmp_path / "mine.toml"), "mine")
    assert (config.steps, config.optim.betas, config.optim.lr) == (250_250, (0.9, 0.98), 2e-4)
    assert (list(config.model.features), config.decoder_phase.adaptive) == (["dinov2"], True)
