import dataclasses

import pytest
import torch
from tests.mimflow_train.conftest import SMALL

from mimflow_train.data.images import MemoryImages, to_unit
from mimflow_train.errors import ConfigError
from mimflow_train.overrides import override
from mimflow_train.recipes import tiny
from mimflow_train.state import TrainState
from mimflow_train.teachers import EffLite0Teacher, PerceptualDistance, Targets, feature_bank

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def distance():
    return PerceptualDistance(CPU)


@pytest.fixture
def image():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_perceptual_distance_of_an_image_to_itself_is_zero(distance, image):
    assert distance(image, image).item() == pytest.approx(0, abs=1e-6)


def test_perceptual_distance_grows_with_blur(distance, image):
    slightly = torch.nn.functional.avg_pool2d(image, 3, 1, 1)
    strongly = torch.nn.functional.avg_pool2d(image, 7, 1, 3)
    assert 0 < distance(slightly, image) < distance(strongly, image)


def test_perceptual_gradient_reaches_the_first_image_alone(distance, image):
    first, second = image.clone().requires_grad_(), image.flip(-1).clone().requires_grad_()
    distance(first, second).backward()
    assert first.grad.abs().sum() > 0
    assert second.grad is None
    assert all(parameter.grad is None for parameter in distance.network.parameters())


def test_perceptual_distance_is_float32_under_autocast(distance, image):
    plain = distance(image, image.flip(-1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distance(image, image.flip(-1)), plain)


def test_teacher_gives_one_vector_for_each_patch_in_raster_order():
    teacher = EffLite0Teacher((2, 4), CPU)
    plain = torch.zeros(1, 3, 16, 32)
    marked = plain.clone()
    marked[..., 8:, 24:] = 1.0  # the last patch of the last row
    change = (teacher(marked) - teacher(plain)).norm(dim=-1)[0]
    assert change.shape == (8,)
    assert change.argmax().item() == 7


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


def test_weight_zero_leaves_out_network_and_decoder(data):
    config = override(
        tiny(("a", "b", "c"), "emoji"), [*SMALL, "loss.feature=0.0", "loss.perceptual=0.0"]
    )
    targets = Targets.load(config, data, CPU)
    assert (targets.perceptual, targets.teachers) == (None, {})
    assert not any("feature" in name for name in TrainState(config, CPU).tensors()["model"])


def test_unknown_teacher_is_refused(config):
    features = {"dinov3": tiny().model.features["efflite0"]}
    with pytest.raises(ConfigError, match="teachers efflite0; got dinov3"):
        dataclasses.replace(config.model, features=features)
