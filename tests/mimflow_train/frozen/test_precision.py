"""Weights that are cast once, as a GPU's run has them, give the very bits of autocast's casts."""

import copy
import dataclasses
from itertools import pairwise

import pytest
import timm
import torch
from tests.mimflow_train.conftest import SMALL
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from genmetrics import efflite0_network
from mimflow_train.config.overrides import override
from mimflow_train.frozen.clip import empty_image_tower
from mimflow_train.frozen.dinov2 import DINOV2_NAME
from mimflow_train.frozen.perceptual import LpipsDistance, lpips_network
from mimflow_train.frozen.teacher import frozen, imitated_gpu
from mimflow_train.recipes import tiny
from mimflow_train.teachers import Targets

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("trunk_alone")


class Casts(TorchDispatchMode):
    """Counts the casts of some tensors."""

    def __init__(self, tensors):
        super().__init__()
        self.watched = {each.untyped_storage().data_ptr() for each in tensors}
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default:
            self.number += args[0].untyped_storage().data_ptr() in self.watched
        return func(*args, **(kwargs or {}))


@pytest.fixture
def bf16():
    """What surrounds a frozen network on a GPU; its attention has no path of its own there."""
    torch.backends.mha.set_fastpath_enabled(False)
    with imitated_gpu(), torch.autocast("cpu", torch.bfloat16):
        yield
    torch.backends.mha.set_fastpath_enabled(True)


def weights_of_products(network):
    kinds = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
    layers = [each for each in network.modules() if isinstance(each, kinds)]
    return [weight for each in layers for weight in each.parameters(recurse=False)]


def image_tower():
    tower = empty_image_tower((2, 2))
    tower.transformer.resblocks = tower.transformer.resblocks[:2]
    tower.to_empty(device="cpu")
    for each in tower.parameters():
        each.data.normal_(std=0.02)
    return tower


def convnext():
    """ConvNeXt-S with one block of each width, where it has 3, 3, 27 and 3."""
    widths = (96, 192, 384, 768)
    return ConvNeXt([CNBlockConfig(*each, 1) for each in pairwise([*widths, None])])


# With two blocks of the twelve: all are alike.
NETWORKS = {
    "dinov2": lambda: timm.create_model(DINOV2_NAME, img_size=32, patch_size=16, depth=2),
    "clip": image_tower,
    "vgg16": lambda: lpips_network(linear_weights=False).net,
    "convnext": convnext,
    "efflite0": efflite0_network,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_cast_once_change_no_bit_and_are_not_cast_again(name, bf16):
    torch.manual_seed(0)
    plain = NETWORKS[name]().eval().requires_grad_(requires_grad=False)
    cast = frozen(copy.deepcopy(plain), CPU)
    results, casts = [], []
    for network in (plain, cast):
        image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
        image.requires_grad_()
        with Casts(weights_of_products(network)) as counted:
            output = network(image)
            output = output[-1] if isinstance(output, tuple) else output
            output.float().square().sum().backward()
        results.append((output, image.grad))
        casts.append(counted.number)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert results[0][1].abs().sum() > 0
    assert casts[0] > 0
    assert casts[1] == 0


def test_norms_stay_in_float32(bf16):
    network = frozen(convnext(), CPU)
    norms = [each for each in network.modules() if isinstance(each, nn.LayerNorm)]
    assert {each.weight.dtype for each in norms} == {torch.float32}
    assert network.features[1][0].layer_scale.dtype == torch.float32
    assert network.features[0][0].weight.dtype == torch.bfloat16


def test_linear_weights_of_lpips_stay_in_float32(bf16, tmp_path):
    network = lpips_network(linear_weights=True)
    state = network.net.state_dict()
    trunk = {f"features.{key.partition('.')[2]}": value for key, value in state.items()}
    torch.save(trunk, tmp_path / "vgg16.pth")
    distance = LpipsDistance.load(tmp_path / "vgg16.pth", CPU)
    kept = [each.model[-1].weight.flatten() for each in network.lins]
    assert all(torch.equal(a, b) for a, b in zip(distance.weights, kept, strict=True))
    assert distance.network.net.slice1[0].weight.dtype == torch.bfloat16


def dtypes(targets):
    networks = [targets.perceptual.network, targets.teachers["efflite0"].network]
    return [each.conv_stem.weight.dtype for each in networks]


def test_networks_of_a_run_are_in_the_precision_of_its_step(data):
    config = override(tiny(("a", "b", "c"), "emoji"), [*SMALL, "data.flip=True"])
    half = dataclasses.replace(config, precision="bf16")
    assert dtypes(Targets.load(half, data, CPU)) == [torch.float32, torch.float32]
    with imitated_gpu():
        assert dtypes(Targets.load(config, data, CPU)) == [torch.float32, torch.float32]
        assert dtypes(Targets.load(half, data, CPU)) == [torch.bfloat16, torch.bfloat16]


def test_features_that_are_kept_are_those_of_float32(data):
    config = override(tiny(("a", "b", "c"), "emoji"), [*SMALL, "precision=bf16"])
    bank = Targets.load(config, data, CPU).banks["efflite0"]
    with imitated_gpu():
        targets = Targets.load(config, data, CPU)
    assert torch.equal(targets.banks["efflite0"], bank)
    assert dtypes(targets) == [torch.bfloat16, torch.float32]
