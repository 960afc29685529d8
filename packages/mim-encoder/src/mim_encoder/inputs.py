"""Checks of tensors that networks and patches are given, each failing in one sentence."""

import torch
from torch import Tensor

from mim_encoder.checks import require_type


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
    require_type(Tensor, "a torch.Tensor", "Convert it with torch.as_tensor.", masked=masked)
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
