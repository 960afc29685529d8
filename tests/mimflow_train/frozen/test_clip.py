import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torchvision.transforms import Normalize

from mimflow_train.config import TEACHERS
from mimflow_train.errors import WeightsError
from mimflow_train.frozen.clip import CLIP_FILE, ClipTeacher

CPU = torch.device("cpu")


def whole_model(image_size):
    """CLIP with one layer of text, which is not looked at."""
    config = open_clip.get_model_config("ViT-B-16-quickgelu")
    config["vision_cfg"]["image_size"] = image_size
    config["text_cfg"]["layers"] = 1
    return open_clip.CLIP(**config)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random weights at 14 x 14 positions: of the whole model, and of the image tower alone."""
    torch.manual_seed(0)
    model = whole_model(224)
    torch.nn.init.normal_(model.visual.ln_post.bias)  # so that leaving out the last norm shows
    folder = tmp_path_factory.mktemp("clip")
    save_file(model.state_dict(), folder / "whole.safetensors")
    save_file(model.visual.state_dict(), folder / "visual.safetensors")
    return folder


@pytest.fixture(scope="module", params=["whole", "visual"])
def teacher(request, files):
    return ClipTeacher(files / f"{request.param}.safetensors", (2, 2), CPU)


@pytest.fixture(scope="module")
def plain(files):
    model = whole_model(32)
    open_clip.load_checkpoint(model, str(files / "whole.safetensors"))
    return model


@pytest.fixture
def image():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_features_are_those_of_open_clip(teacher, plain, image):
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    pixels = Normalize(mean, std)((image + 1) / 2)
    tokens = []
    hook = plain.visual.ln_post.register_forward_hook(lambda *args: tokens.append(args[2]))
    with torch.no_grad():
        plain.visual.eval()(pixels)
    hook.remove()
    expected = tokens[0][:, 1:]
    torch.testing.assert_close(teacher(image), expected, atol=1e-5, rtol=1e-5)
    assert expected.shape[-1] == TEACHERS["clip"]


def test_frozen_and_in_float32_under_autocast(teacher, image):
    plain = teacher(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(teacher(image), plain)
    assert not plain.requires_grad
    assert not teacher.network.training
    assert not any(each.requires_grad for each in teacher.network.parameters())


def test_a_file_of_another_network_is_one_error(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"CLIP ViT-B/16 in .*a\.safetensors"):
        ClipTeacher(tmp_path / "a.safetensors", (1, 1), CPU)


def test_the_published_file_is_openai_s():
    config = open_clip.get_pretrained_cfg("ViT-B-16-quickgelu", "openai")
    assert config["hf_hub"].rstrip("/") in CLIP_FILE.url
