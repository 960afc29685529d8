import pytest
import torch

from mimflow_train.frozen.efflite0 import EffLite0Distance, EffLite0Teacher

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def distance():
    return EffLite0Distance.load(CPU)


@pytest.fixture
def image():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def apart(distance, image, target):
    return distance(image, distance.of(target))


def test_perceptual_distance_of_an_image_to_itself_is_zero(distance, image):
    assert apart(distance, image, image).item() == pytest.approx(0, abs=1e-6)


def test_perceptual_distance_is_that_of_unit_vectors_at_each_stage(distance, image):
    a, b = distance.of(image), distance.of(image.flip(-1))
    unit = [[each / each.square().sum(1, keepdim=True).sqrt() for each in maps] for maps in (a, b)]
    written_out = sum((x - y).square().sum(1).mean() for x, y in zip(*unit, strict=True))
    assert [each.shape[1] for each in a] == [16, 24, 40, 112]
    assert apart(distance, image, image.flip(-1)).item() == pytest.approx(written_out.item())


def test_perceptual_distance_grows_with_blur(distance, image):
    slightly = torch.nn.functional.avg_pool2d(image, 3, 1, 1)
    strongly = torch.nn.functional.avg_pool2d(image, 7, 1, 3)
    assert 0 < apart(distance, slightly, image) < apart(distance, strongly, image)


def test_perceptual_gradient_reaches_the_first_image_alone(distance, image):
    first, second = image.clone().requires_grad_(), image.flip(-1).clone().requires_grad_()
    apart(distance, first, second).backward()
    assert first.grad.abs().sum() > 0
    assert second.grad is None
    assert all(parameter.grad is None for parameter in distance.network.parameters())


def test_perceptual_distance_is_float32_under_autocast(distance, image):
    plain = apart(distance, image, image.flip(-1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(apart(distance, image, image.flip(-1)), plain)


def test_teacher_gives_one_vector_for_each_patch_in_raster_order():
    teacher = EffLite0Teacher((2, 4), CPU)
    plain = torch.zeros(1, 3, 16, 32)
    marked = plain.clone()
    marked[..., 8:, 24:] = 1.0  # the last patch of the last row
    change = (teacher(marked) - teacher(plain)).norm(dim=-1)[0]
    assert change.shape == (8,)
    assert change.argmax().item() == 7
