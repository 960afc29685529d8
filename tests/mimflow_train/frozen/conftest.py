from types import SimpleNamespace

import lpips
import pytest
from torch import nn
from torchvision.models.vgg import cfgs, make_layers


def random_trunk(*, pretrained):
    """VGG16 as torchvision draws it, without the classifier, which has most of the weights."""
    assert not pretrained
    trunk = make_layers(cfgs["D"])
    for layer in trunk:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return SimpleNamespace(features=trunk)


@pytest.fixture(scope="module")
def trunk_alone():
    """LPIPS draws VGG16's trunk alone; it draws all of it, and takes that."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lpips.pretrained_networks.tv, "vgg16", random_trunk)
        yield
