"""What a feature teacher is (Eq. 7), and the two ways to compare features with its own."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn

__all__ = [
    "PATCH",
    "FeatureTarget",
    "Teacher",
    "at_grid",
    "cast_products",
    "cosine_distance",
    "frozen",
    "frozen_precision",
    "imitated_gpu",
    "square_distance",
    "standardized",
]

PATCH = 16  # pixels per side of a patch that the teachers see
# What autocast runs in half precision; ConvNeXt's and ViTs' norms and scales stay in float32.
_PRODUCTS = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
_GPU_IS_IMITATED = ContextVar("_GPU_IS_IMITATED", default=False)


@runtime_checkable
class Teacher(Protocol):
    """A frozen function of an image that feature decoders imitate; it is part of no model."""

    def __call__(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n f"]:
        """Return the features of each patch of images in [-1, 1], in raster order."""

    def distance(
        self, features: Float[Tensor, "b n f"], target: Float[Tensor, "b n f"]
    ) -> Float[Tensor, "b n"]:
        """Return how far decoded features are from this teacher's, in each patch."""


class FeatureTarget(NamedTuple):
    """A teacher's features of a batch, and how a prediction is compared with them."""

    features: Float[Tensor, "b n f"]
    distance: Callable[[Tensor, Tensor], Tensor]


def cosine_distance(
    features: Float[Tensor, "b n f"], target: Float[Tensor, "b n f"]
) -> Float[Tensor, "b n"]:
    """Return ``1 - cos``, for features whose length means nothing.

    Example:
        >>> cosine_distance(torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 3.0]]])).item()
        1.0
    """
    return 1 - F.cosine_similarity(features.float(), target.float(), dim=-1)


def square_distance(
    features: Float[Tensor, "b n f"], target: Float[Tensor, "b n f"]
) -> Float[Tensor, "b n"]:
    """Return the mean square of the differences, for histograms.

    Example:
        >>> square_distance(torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 4.0]]])).item()
        10.0
    """
    return reduce((features.float() - target.float()).square(), "b n f -> b n", "mean")


def frozen(network: nn.Module, device: torch.device) -> nn.Module:
    """Return a network on its device, in eval mode and without gradients of its own.

    Where it is to run as it is built, under autocast and on a GPU, its products' weights are cast
    here: autocast keeps no cast of a weight that does not learn, and would cast it in every pass.

    Args:
        network: Changed in place.
        device: Where it runs.
    """
    network = network.to(device).eval().requires_grad_(requires_grad=False)
    with frozen_precision(device.type):
        if torch.is_autocast_enabled(device.type):
            cast_products(network, torch.get_autocast_dtype(device.type))
    return network


def cast_products(network: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights that autocast would, in place; none of them learns any more.

    Args:
        network: Of linear layers, convolutions and attention, among others.
        dtype: As autocast has it.
    """
    for module in network.modules():
        if isinstance(module, _PRODUCTS):
            for name, weight in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(weight.to(dtype), requires_grad=False))


def frozen_precision(device_type: str) -> contextlib.AbstractContextManager[object]:
    """Return the context in which a frozen network runs, with gradients to its input or without.

    On a GPU it goes along with the run's precision, since half of a step's time would be theirs in
    float32 (benchmarks/gpu_step.md); elsewhere it is float32 whatever autocast says.

    Args:
        device_type: Where the network is.
    """
    if device_type == "cuda" or _GPU_IS_IMITATED.get():
        return contextlib.nullcontext()
    return torch.autocast(device_type, enabled=False)


@contextlib.contextmanager
def imitated_gpu() -> Iterator[None]:
    """Run frozen networks in the precision that they have on a GPU, wherever they are."""
    token = _GPU_IS_IMITATED.set(True)
    try:
        yield
    finally:
        _GPU_IS_IMITATED.reset(token)


def at_grid(
    image: Float[Tensor, "b 3 h w"], grid: tuple[int, int], device: torch.device
) -> Float[Tensor, "b 3 height width"]:
    """Return the image on the device, resized to patches of 16 px in this many rows and columns."""
    size = (PATCH * grid[0], PATCH * grid[1])
    image = image.to(device)
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image, size, mode="bilinear", antialias=True)


def standardized(
    image: Float[Tensor, "b 3 h w"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "b 3 h w"]:
    """Map images in [-1, 1] to the range of a network trained on ``(image01 - mean) / std``."""
    shift, scale = (_by_channel(image, each) for each in (mean, std))
    return ((image + 1) / 2 - shift) / scale


def _by_channel(image: Tensor, values: tuple[float, ...]) -> Float[Tensor, "3 1 1"]:
    # Filled where the image is: a copy to a GPU would wait for all that is queued there.
    return torch.stack([image.new_full((1, 1), value) for value in values])
