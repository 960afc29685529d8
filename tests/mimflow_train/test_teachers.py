import dataclasses

import pytest
import torch
from tests.mimflow_train.conftest import SMALL

from mimflow_train import teachers
from mimflow_train.config import TEACHERS
from mimflow_train.config.overrides import override
from mimflow_train.data.images import MemoryImages, to_unit
from mimflow_train.draws import draw_step
from mimflow_train.engine.context import LocalContext
from mimflow_train.engine.stop import StopRequest
from mimflow_train.errors import ConfigError, WeightsError
from mimflow_train.frozen.efflite0 import EffLite0Teacher
from mimflow_train.frozen.hog import HogTeacher
from mimflow_train.joint_phase import JointPhase
from mimflow_train.micro_batches import Batch
from mimflow_train.recipes import IMAGENET_CLASSES, paper, tiny
from mimflow_train.state import TrainState
from mimflow_train.teachers import (
    Targets,
    build_perceptual,
    build_teacher,
    feature_bank,
    near,
    needed_files,
)

CPU = torch.device("cpu")


def test_bank_holds_what_the_teacher_says(data):
    teacher = EffLite0Teacher((2, 2), CPU)
    images = MemoryImages(data.train.images.pixels[:3])
    bank = feature_bank(teacher, images)
    live = teacher(to_unit(images.pixels))
    torch.testing.assert_close(bank.float(), live, atol=5e-3, rtol=5e-3)


def test_flipped_images_are_looked_at_anew(data):
    config = override(tiny(("a", "b", "c"), "emoji"), [*SMALL, "loss.perceptual=0.0"])
    assert set(Targets.load(config, data, CPU).banks) == {"efflite0"}
    mirrored = override(config, ["data.flip=true"])
    assert not Targets.load(mirrored, data, CPU).banks


def test_more_than_fits_is_computed_in_each_step(data, monkeypatch):
    config = override(tiny(("a", "b", "c"), "emoji"), [*SMALL, "loss.perceptual=0.0"])
    kept = Targets.load(config, data, CPU).banks["efflite0"]
    monkeypatch.setattr(teachers, "_MOST_KEPT", kept.nbytes)
    assert Targets.load(config, data, CPU).banks
    monkeypatch.setattr(teachers, "_MOST_KEPT", kept.nbytes - 1)
    assert not Targets.load(config, data, CPU).banks


def test_a_small_bank_is_where_steps_are_computed():
    device, number = torch.device("meta"), torch.zeros(1, dtype=torch.float16)
    assert near(number.expand(2**19, 32, 32), device).device == device  # 1 GiB
    assert near(number.expand(2**19 + 1, 32, 32), device).device == CPU


class Pixels:
    """A distance that notes when it is asked."""

    def __init__(self):
        self.asked = []

    def of(self, target):
        self.asked.append("of")
        return [target]

    def __call__(self, image, wanted):
        self.asked.append("distance")
        return (image.float() - wanted[0]).abs().mean()


def test_distances_look_at_the_images_before_the_model_does(config, data):
    config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, perceptual=1.0))
    state, distance = TrainState(config, CPU), Pixels()
    state.model.register_forward_pre_hook(lambda *_: distance.asked.append("model"))
    context = LocalContext(CPU, lambda *_: None, StopRequest())
    phase = JointPhase(state, context, config, Targets(distance, {}, {}))
    image = to_unit(data.train.stack(range(8)))
    batch = Batch(image, data.train.labels[:8], torch.arange(8))
    terms = phase.gradients(batch, draw_step(config, 0, slice(0, 8)))
    assert distance.asked == ["of", "model", "distance"]
    assert terms["perceptual"] > 0


def test_the_decoder_phase_needs_no_teacher():
    config = paper("L", IMAGENET_CLASSES, "imagenet")
    names = {
        joint: [
            file.network for file in needed_files(config, joint_phase=joint, decoder_phase=True)
        ]
        for joint in (True, False)
    }
    assert names[True] == [*names[False], "DINOv2 ViT-B/14", "CLIP ViT-B/16"]
    assert names[False] == ["VGG16", "ConvNeXt-S"]


def test_weight_zero_leaves_out_network_and_decoder(data):
    config = override(
        tiny(("a", "b", "c"), "emoji"), [*SMALL, "loss.feature=0.0", "loss.perceptual=0.0"]
    )
    targets = Targets.load(config, data, CPU)
    assert (targets.perceptual, targets.teachers) == (None, {})
    assert not any("feature" in name for name in TrainState(config, CPU).tensors()["model"])


def test_unknown_teacher_is_refused(config):
    features = {"dinov3": tiny().model.features["efflite0"]}
    with pytest.raises(ConfigError, match="teachers efflite0, hog, dinov2, clip; got dinov3"):
        dataclasses.replace(config.model, features=features)


@pytest.mark.parametrize("name", ["efflite0", "hog"])  # the others' is in their own tests
def test_a_teacher_has_the_width_that_the_config_knows(name):
    features = build_teacher(name, (2, 3), CPU)(torch.zeros(1, 3, 32, 48))
    assert features.shape == (1, 6, TEACHERS[name])


def test_a_teacher_that_nothing_makes_is_not_another(monkeypatch):
    monkeypatch.setitem(TEACHERS, "mine", 112)
    with pytest.raises(KeyError, match="got mine"):
        build_teacher("mine", (1, 1), CPU)


@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_a_teacher_without_weights_is_an_error_and_no_random_features(name, monkeypatch):
    monkeypatch.setenv("MIMFLOW_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"loss\.feature=0"):
        build_teacher(name, (1, 1), CPU)


def test_lpips_without_weights_is_an_error(monkeypatch):
    monkeypatch.setenv("MIMFLOW_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"vgg16-397923af\.pth.*loss\.perceptual=0"):
        build_perceptual("lpips", CPU)


def test_hog_is_built_without_weights(monkeypatch):
    monkeypatch.setenv("MIMFLOW_OFFLINE", "1")
    assert isinstance(build_teacher("hog", (1, 1), CPU), HogTeacher)
