"""Which patches the encoder does not see."""

from statistics import NormalDist

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mim_encoder.checks import require_not_negative, require_type
from mim_encoder.config import MaskRatio
from mim_encoder.inputs import require_generator

_SCALE = 0.25


def random_mask(
    batch: int,
    num_patches: int,
    ratio: MaskRatio,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Bool[Tensor, "b n"]:
    """Hide a random number of patches in every image, at places independent between images.

    One share r is drawn per call, or per image if ``ratio.per_sample``; an image hides exactly
    ``ceil(r * num_patches)`` patches. All draws happen on the generator's device and nothing waits
    for the GPU.

    Args:
        batch: Images.
        num_patches: Patches per image.
        ratio: Law of the hidden share.
        generator: Source of randomness; the same state gives the same mask.
        device: Where the mask goes; by default it stays with the generator.

    Returns:
        True where a patch is hidden from the encoder.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If the batch or the number of patches is below 0.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> masked = random_mask(2, 16, MaskRatio(low=0.5, high=0.5), generator=generator)
        >>> masked.sum(1).tolist()
        [8, 8]
    """
    require_not_negative(batch=batch, num_patches=num_patches)
    law = "Write MaskRatio(low=0.5, high=0.5)."
    require_type(MaskRatio, "a MaskRatio", law, ratio=ratio)
    require_generator(generator)
    source = device if generator is None else generator.device
    shares = (batch, 1) if ratio.per_sample else (1, 1)
    share = _draw_share(ratio, torch.rand(shares, generator=generator, device=source))
    noise = torch.rand(batch, num_patches, generator=generator, device=source)
    shuffled = noise.argsort(dim=1)
    # In float32 0.6 * 25 is a little above 15, which must not hide a sixteenth patch.
    masked: Tensor = shuffled < torch.ceil((share - 1e-6) * num_patches)
    return masked if device is None else masked.to(device)


def _draw_share(ratio: MaskRatio, uniform: Float[Tensor, "b 1"]) -> Float[Tensor, "b 1"]:
    """Map uniform numbers to hidden shares through the inverse distribution function."""
    if ratio.law == "uniform":
        return ratio.low + (ratio.high - ratio.low) * uniform
    lowest = NormalDist(ratio.high, _SCALE).cdf(ratio.low)
    quantile = torch.special.ndtri(lowest + (0.5 - lowest) * uniform)
    share: Tensor = (ratio.high + _SCALE * quantile).clamp(ratio.low, ratio.high)
    return share
