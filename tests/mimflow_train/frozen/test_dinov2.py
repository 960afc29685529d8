import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torchvision.transforms import Normalize

from mimflow_train.config import TEACHERS
from mimflow_train.errors import WeightsError
from mimflow_train.frozen.dinov2 import DINOV2_NAME, DinoV2Teacher

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def published():
    """Random weights in the form of the release: patches of 14 px, 37 x 37 positions."""
    torch.manual_seed(0)
    network = timm.create_model(DINOV2_NAME)
    torch.nn.init.normal_(network.norm.bias)  # so that leaving out the last norm shows
    return {key: value.detach() for key, value in network.state_dict().items()}


@pytest.fixture(scope="module", params=["timm", "meta"])
def teacher(request, published, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dinov2")
    if request.param == "timm":
        file = folder / "model.safetensors"
        save_file(published, file)
    else:  # Meta's file has one tensor more
        file = folder / "dinov2_vitb14_pretrain.pth"
        torch.save(published | {"mask_token": torch.zeros(1, 768)}, file)
    return DinoV2Teacher(file, (3, 2), CPU)


@pytest.fixture
def image():
    return torch.rand(2, 3, 48, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_features_are_those_of_timm(teacher, published, image):
    with torch.device("meta"):
        plain = timm.create_model(DINOV2_NAME, img_size=(48, 32), patch_size=16).eval()
    resampled = {
        "patch_embed.proj.weight": resample_patch_embed(
            published["patch_embed.proj.weight"], [16, 16]
        ),
        "pos_embed": resample_abs_pos_embed(published["pos_embed"], [3, 2]),
    }
    plain.load_state_dict(published | resampled, assign=True)
    assert plain.num_features == TEACHERS["dinov2"]
    pixels = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))((image + 1) / 2)
    with torch.no_grad():
        expected = plain.forward_features(pixels)[:, 1:]
    torch.testing.assert_close(teacher(image), expected, atol=1e-5, rtol=1e-5)


def test_frozen_and_in_float32_under_autocast(teacher, image):
    plain = teacher(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(teacher(image), plain)
    assert not plain.requires_grad
    assert not teacher.network.training
    assert not any(each.requires_grad for each in teacher.network.parameters())


def test_a_file_of_another_network_is_one_error(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"DINOv2 ViT-B/14 in .*a\.safetensors"):
        DinoV2Teacher(tmp_path / "a.safetensors", (1, 1), CPU)
