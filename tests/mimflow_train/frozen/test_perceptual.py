import hashlib
import subprocess
import sys
import warnings
from pathlib import Path

import lpips
import pytest
import torch
import torch.nn.functional as F
from torchvision.models import convnext_small, vgg16
from torchvision.transforms import Normalize

from mimflow_train.errors import WeightsError
from mimflow_train.frozen.perceptual import (
    ConvNextDistance,
    LpipsDistance,
    PerceptualLoss,
    level_distance,
)
from mimflow_train.frozen.teacher import imitated_gpu

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("trunk_alone")
LINEAR_MD5 = "d507d7349b931f0638a25a48a722f98a"  # of LPIPS 0.1's release


@pytest.fixture(scope="module")
def reference(trunk_alone):
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


def apart(distance, image, target):
    return distance(image, distance.of(target))


def test_lpips_is_the_package_s(distances, reference, pair):
    wanted = reference(*pair).mean().item()
    found = apart(distances["lpips"], *pair).item()
    assert found == pytest.approx(wanted, rel=1e-6)  # in another layout
    assert wanted > 0


def loss_and_gradient(distance, image, target):
    image = image.clone().requires_grad_()
    network = isinstance(distance, torch.nn.Module)  # the package's
    loss = distance(image, target).mean() if network else apart(distance, image, target)
    loss.backward()
    return loss.detach(), image.grad


def test_lpips_and_its_gradient_are_the_package_s_to_rounding(distances, reference, pair):
    wanted, wanted_gradient = loss_and_gradient(reference, *pair)
    loss, gradient = loss_and_gradient(distances["lpips"], *pair)
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)
    assert (gradient - wanted_gradient).norm() < 1e-5 * wanted_gradient.norm()


def test_lpips_in_bf16_is_nearer_to_float32_than_the_package(distances, reference, pair):
    exact, exact_gradient = loss_and_gradient(reference, *pair)
    with imitated_gpu(), torch.autocast("cpu", torch.bfloat16):
        package, package_gradient = loss_and_gradient(reference, *pair)
        loss, gradient = loss_and_gradient(distances["lpips"], *pair)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=5e-3, atol=0)
    assert abs(loss - exact) <= abs(package - exact)
    apart, package_apart = ((g - exact_gradient).norm() for g in (gradient, package_gradient))
    assert apart < 1.05 * package_apart


def test_places_without_active_features_are_harmless(trunk, pair, tmp_path):
    state = torch.load(trunk)
    state["features.28.bias"] = state["features.28.bias"] - 1e3  # nothing is active at level 5
    torch.save(state, tmp_path / "vgg16.pth")
    distance = LpipsDistance.load(tmp_path / "vgg16.pth", CPU)
    loss, gradient = loss_and_gradient(distance, *pair)
    package, package_gradient = loss_and_gradient(distance.network, *pair)
    torch.testing.assert_close(loss, package, rtol=1e-6, atol=0)
    assert (gradient - package_gradient).norm() < 1e-5 * package_gradient.norm()
    x = torch.zeros(1, 3, 2, 2, requires_grad=True)
    level_distance(x, torch.ones(1, 3, 2, 2), torch.ones(3)).backward()
    assert x.grad.isfinite().all(), "the package's is not a number"


COMPILED = """
import torch
from torch._dynamo.utils import counters
from mimflow_train.frozen.perceptual import LpipsDistance, lpips_network

torch.manual_seed(0)
network = lpips_network(linear_weights=True).requires_grad_(False)
first, second = torch.rand(2, 2, 3, 16, 16) * 2 - 1
results = []
for compiled in (False, True):
    distance, image = LpipsDistance(network, compiled=compiled), first.clone().requires_grad_()
    with torch.compiler.set_stance("force_eager"):
        distance(image[:1], distance.of(second[:1]))
    assert counters["stats"]["unique_graphs"] == 0
    distance(image, distance.of(second)).backward()
    results.append(image.grad)
assert counters["stats"]["unique_graphs"] == 5, counters["stats"]
torch.testing.assert_close(*results, rtol=1e-4, atol=1e-7)
"""


@pytest.mark.slow
def test_compiled_lpips_is_the_same_to_rounding():
    """In a process of its own: the checks of argument types that tests add do not compile."""
    command = [sys.executable, "-c", COMPILED]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


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
    torch.testing.assert_close(apart(distances["convnext"], *pair), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["lpips", "convnext"])
def test_zero_at_identity(distances, name, pair):
    assert apart(distances[name], pair[0], pair[0]).item() == 0


@pytest.mark.parametrize("name", ["lpips", "convnext"])
def test_gradient_reaches_the_first_image_alone(distances, name, pair):
    first, second = (each.clone().requires_grad_() for each in pair)
    apart(distances[name], first, second).backward()
    assert first.grad.abs().sum() > 0
    assert second.grad is None
    network = distances[name].network
    assert not network.training
    assert not any(each.requires_grad for each in network.parameters())


@pytest.mark.parametrize("name", ["lpips", "convnext"])
def test_float32_under_autocast(distances, name, pair):
    plain = apart(distances[name], *pair)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(apart(distances[name], *pair), plain)


class Mean:
    """A distance that looks at the means of some channels."""

    def __init__(self, *channels):
        self.channels = channels

    def of(self, target):
        return [target[:, each].mean() for each in self.channels]

    def __call__(self, image, wanted):
        pairs = zip(self.of(image), wanted, strict=True)
        return sum((a - b).abs() for a, b in pairs)


def test_the_paper_s_weight_cancels_the_denominator():
    loss = PerceptualLoss(Mean(0, 1), Mean(2))
    image = torch.tensor([1.0, 2.0, 7.0])[None, :, None, None].expand(1, 3, 4, 4)
    assert 1.1 * apart(loss, image, torch.zeros_like(image)).item() == pytest.approx(3.0 + 0.7)


@pytest.mark.parametrize(
    ("kind", "name"), [(LpipsDistance, "VGG16"), (ConvNextDistance, "ConvNeXt-S")]
)
def test_a_file_of_another_network_is_one_error(kind, name, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=rf"{name} in .*a\.pth"):
        kind.load(tmp_path / "a.pth", CPU)
