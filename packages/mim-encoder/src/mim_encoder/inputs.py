"""Checks of what networks and functions of images are given, each failing in one sentence."""

import torch
from torch import Tensor

from mim_encoder.checks import require_type

ONE_BATCH = "Unsqueeze or flatten it to one batch dimension."


def require_tensor(**values: object) -> None:
    """Raise TypeError, naming the value, unless every value is a tensor."""
    require_type(Tensor, "a torch.Tensor", "Convert it with torch.as_tensor.", **values)


def require_generator(generator: object) -> None:
    """Raise TypeError unless it is a generator or None."""
    advice = "Write torch.Generator().manual_seed(0)."
    kind = torch.Generator | None
    require_type(kind, "a torch.Generator or None", advice, generator=generator)


def require_dtype(name: str, value: Tensor, dtype: torch.dtype, advice: str) -> None:
    """Check that weights can work on a tensor: under autocast it may be of another precision.

    Args:
        name: What the tensor is.
        value: The tensor.
        dtype: That of the weights.
        advice: What to do.

    Raises:
        ValueError: If they cannot.
    """
    if value.dtype != dtype and not _casts_itself(value):
        raise ValueError(
            f"Expected {name} of {dtype}, as the weights are; got {value.dtype}. {advice}"
        )


def require_images(image: Tensor, size: int, dtype: torch.dtype) -> None:
    """Check RGB images in [-1, 1]; the values are not looked at.

    Args:
        image: The images.
        size: Their side, in pixels.
        dtype: That of the weights.

    Raises:
        TypeError: If they are no tensor.
        ValueError: If they have another shape or dtype.
    """
    require_tensor(image=image)
    if image.ndim != 4 or image.shape[1:] != (3, size, size):
        raise ValueError(
            f"Expected images of shape (b, 3, {size}, {size}); got {tuple(image.shape)}. "
            f"{_shape_advice(image)}"
        )
    to_floats = f"Convert them with image.to({dtype})."
    if not image.is_floating_point():
        to_floats = "Scale bytes to floats in [-1, 1]: image / 127.5 - 1."
    require_dtype("images", image, dtype, to_floats)


def require_mask(masked: Tensor, num_images: int | None, num_patches: int) -> None:
    """Check a mask over patches.

    Args:
        masked: True where a patch is hidden.
        num_images: Rows it must have; None for any number.
        num_patches: Patches per image.

    Raises:
        TypeError: If it is no tensor.
        ValueError: If it has another shape or is not boolean: ``~`` would flip bits of integers.
    """
    require_tensor(masked=masked)
    if masked.dtype != torch.bool:
        raise ValueError(
            f"Expected a mask of torch.bool; got {masked.dtype}. Convert it with mask.bool()."
        )
    rows = masked.shape[0] if num_images is None and masked.ndim else num_images
    if masked.shape != (rows, num_patches):
        raise ValueError(
            f"Expected a mask of {'b' if num_images is None else num_images}x{num_patches} "
            f"(images x patches); got {'x'.join(map(str, masked.shape)) or 'a single value'}. "
            "Draw it with random_mask."
        )


def _casts_itself(value: Tensor) -> bool:
    kind, halves = value.device.type, (torch.float16, torch.bfloat16, torch.float32)
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return False  # the meta device has no autocast
    return value.dtype in halves


def _shape_advice(image: Tensor) -> str:
    if image.ndim != 4:
        return ONE_BATCH
    channels = (1, 3, 4)
    if image.shape[1] not in channels and image.shape[-1] in channels:
        return "Move the channels to the front with image.movedim(-1, 1)."
    if image.shape[1] != 3:
        return "Convert them to RGB."
    return "Resize them, or set image_size in EncoderConfig."
