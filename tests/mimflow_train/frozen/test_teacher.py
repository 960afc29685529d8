import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mimflow_train.frozen.teacher import at_grid

CPU = torch.device("cpu")


class Operators(TorchDispatchMode):
    """Names what is computed."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_an_image_of_the_right_size_is_not_resized():
    image = torch.rand(2, 3, 48, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with Operators() as operators:
        same = at_grid(image, (3, 2), CPU)
    assert operators.names == []
    assert torch.equal(same, F.interpolate(image, (48, 32), mode="bilinear", antialias=True))


def test_an_image_of_another_size_has_patches_of_16_px():
    image = torch.rand(2, 3, 48, 32)
    assert at_grid(image, (2, 3), CPU).shape == (2, 3, 32, 48)
