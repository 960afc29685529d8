"""A network of the user's own, as this package's networks are: bytes in, named float32 rows out."""

import copy
import hashlib

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from genmetrics.checks import described
from genmetrics.errors import UsageError
from genmetrics.full_precision import full_float32
from genmetrics.images.float_images import FloatRange, check_float_range
from genmetrics.networks.feature_network import FeatureNetwork


class OwnFeatures(FeatureNetwork):
    """A frozen copy of a network, in eval mode.

    Args:
        network: Maps images ``(b, 3, h, w)`` to rows ``(b, d)``.
        float_range: Values of black and white in the float32 images that it takes; None if it takes
            bytes.
        side: Of the two square images that it is tried on.

    Raises:
        UsageError: If it cannot be copied or run, or does not return a row of floats per image.

    Example:
        >>> network = OwnFeatures(nn.Flatten(), (-1.0, 1.0), side=1)
        >>> network.outputs, network(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))
        ({'features': 3}, {'features': tensor([[-1., -1., -1.]])})
    """

    def __init__(self, network: nn.Module, float_range: FloatRange | None, *, side: int) -> None:
        super().__init__()
        self.classifier = None
        _require_network(network)
        try:
            self.network = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
        except Exception as error:  # a user's network raises anything
            raise UsageError(
                f"Expected a network that can be copied; got {type(error).__name__}: {error}. "
                "Detach the activations that it keeps."
            ) from error
        self.float_range = None if float_range is None else check_float_range(*float_range)
        self.preprocess_id = "uint8"
        if self.float_range is not None:
            low, high = self.float_range
            self.preprocess_id = f"float32 from {low!r} to {high!r}"
        self.weights_sha256 = _digest(self.network)
        rows = self._tried(side)
        self.outputs = {"features": rows.shape[1]}
        # Shows what the digest does not, such as attributes and code; rounds as the device does.
        self.tried_sha256 = hashlib.sha256(_bytes(rows)).hexdigest()

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> dict[str, Float32[Tensor, "b _"]]:
        """Return the rows as ``features``."""
        rows: Tensor = self.network(self._seen(images.contiguous()))  # as in the trial
        return {"features": rows.float()}

    def _seen(self, images: Tensor) -> Tensor:
        """Return what the network takes."""
        if self.float_range is None:
            return images
        low, high = self.float_range
        return images.float() / 255 * (high - low) + low

    def _tried(self, side: int) -> Float[Tensor, "2 d"]:
        """Return the network's rows of two images of noise."""
        place = next(self.network.parameters(), torch.empty(0)).device
        noise = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=noise)
        try:
            with torch.no_grad(), full_float32(place):
                rows = self.network(self._seen(images.to(place)))
        except Exception as error:  # a user's network raises anything
            raise UsageError(
                f"Expected features of two {side}x{side} images; got {type(error).__name__}: "
                f"{error}. Say what it takes: float_range=(0.0, 1.0) for floats, side= for a size."
            ) from error
        if (
            not isinstance(rows, Tensor)
            or rows.ndim != 2
            or len(rows) != 2
            or not rows.is_floating_point()
        ):
            raise UsageError(
                f"Expected features of two images as rows (2, d) of floats; got {described(rows)}. "
                "Pool or flatten them in the network."
            )
        return rows


def _require_network(network: object) -> None:
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"Expected a network (nn.Module); got {described(network)}. Put a function into the "
            "forward of one."
        )


def _digest(network: nn.Module) -> str:
    """Return the hex sha256 of layers, parameters and buffers."""
    digest = hashlib.sha256(repr(network).encode())
    for name, values in [*network.named_parameters(), *network.named_buffers()]:
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(_bytes(values))
    return digest.hexdigest()


def _bytes(values: Tensor) -> bytes:
    return values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
