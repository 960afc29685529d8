import hashlib
import warnings
from pathlib import Path

import lpips
import pytest
import torch
import torch.nn.functional as F
from torchvision.models import convnext_small, vgg16
from torchvision.transforms import Normalize

from mimflow_train.errors import WeightsError
from mimflow_train.frozen.perceptual import ConvNextDistance, LpipsDistance, PerceptualLoss

CPU = torch.device("cpu")
LINEAR_MD5 = "d507d7349b931f0638a25a48a722f98a"  # of LPIPS 0.1's release


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)


@pytest.fixture(scope="module")
def trunk(reference, tmp_path_factory):
    """The trunk under torchvision's names."""
    slices = reference.net.state_dict()
    state = {f"features.{key.partition('.')[2]}": value for key, value in slices.items()}
    file = tmp_path_factory.mktemp("vgg16") / "vgg16.pth"
    torch.save(state, file)
    return file


@pytest.fixture(scope="module")
def convnext():
    torch.manual_seed(0)
    network = convnext_small().eval()
    for block in network.modules():
        if hasattr(block, "layer_scale"):
            block.layer_scale.data.fill_(0.1)
    return network


@pytest.fixture(scope="module")
def distances(trunk, convnext, tmp_path_factory):
    file = tmp_path_factory.mktemp("convnext") / "convnext.pth"
    torch.save(convnext.state_dict(), file)
    return {"lpips": LpipsDistance.load(trunk, CPU), "convnext": ConvNextDistance.load(file, CPU)}


@pytest.fixture
def pair():
    first, second = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return first, second


def test_lpips_is_the_package_s(distances, reference, pair):
    wanted = reference(*pair).mean().item()
    assert distances["lpips"](*pair).item() == pytest.approx(wanted, rel=1e-6)  # in another layout
    assert wanted > 0


def test_linear_weights_are_the_release_s():
    file = Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth"
    assert hashlib.md5(file.read_bytes()).hexdigest() == LINEAR_MD5


def test_torchvision_names_the_trunk_as_we_do(trunk):
    with torch.device("meta"):
        names = vgg16().state_dict()
    assert set(torch.load(trunk)) <= set(names)


def test_logits_are_torchvision_s(distances, convnext, pair):
    normalize = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    small = [F.interpolate(each, (224, 224), mode="bilinear", antialias=True) for each in pair]
    with torch.no_grad():
        first, second = (convnext(normalize((each + 1) / 2)) for each in small)
    expected = (first - second).square().mean()
    torch.testing.assert_close(distances["convnext"](*pair), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["lpips", "convnext"])
def test_zero_at_identity(distances, name, pair):
    assert distances[name](pair[0], pair[0]).item() == 0


@pytest.mark.parametrize("name", ["lpips", "convnext"])
def test_gradient_reaches_the_first_image_alone(distances, name, pair):
    first, second = (each.clone().requires_grad_() for each in pair)
    distances[name](first, second).backward()
    assert first.grad.abs().sum() > 0
    assert second.grad is None
    network = distances[name].network
    assert not network.training
    assert not any(each.requires_grad for each in network.parameters())


@pytest.mark.parametrize("name", ["lpips", "convnext"])
def test_float32_under_autocast(distances, name, pair):
    plain = distances[name](*pair)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distances[name](*pair), plain)


def test_the_paper_s_weight_cancels_the_denominator(pair):
    loss = PerceptualLoss(lambda *_: torch.tensor(3.0), lambda *_: torch.tensor(7.0))
    assert 1.1 * loss(*pair).item() == pytest.approx(3.0 + 0.1 * 7.0)


@pytest.mark.parametrize(
    ("kind", "name"), [(LpipsDistance, "VGG16"), (ConvNextDistance, "ConvNeXt-S")]
)
def test_a_file_of_another_network_is_one_error(kind, name, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=rf"{name} in .*a\.pth"):
        kind.load(tmp_path / "a.pth", CPU)
