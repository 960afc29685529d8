"""DiffAug: what a discriminator sees, shifted and recoloured at random (arXiv 2006.10738)."""

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor

__all__ = ["NUM_UNIFORM", "augmented"]

NUM_UNIFORM = 5  # numbers that decide over one image: brightness, saturation, contrast, y, x
_LARGEST_SHIFT = 1 / 8  # of the side


def augmented(
    image: Float[Tensor, "b 3 h w"], uniform: Float[Tensor, "b 5"]
) -> Float[Tensor, "b 3 h w"]:
    """Change brightness, saturation and contrast, then shift; differentiable in the image.

    Args:
        image: Images around [-1, 1].
        uniform: Random numbers in [0, 1); 0.5 leaves colours and place as they are.

    Example:
        >>> image = torch.rand(1, 3, 8, 8)
        >>> torch.allclose(augmented(image, torch.full((1, 5), 0.5)), image)
        True
    """
    brightness, saturation, contrast = uniform[:, :3, None, None, None].unbind(1)
    image = image + (brightness - 0.5)
    grey = reduce(image, "b c h w -> b 1 h w", "mean")
    image = grey + 2 * saturation * (image - grey)
    mean = reduce(image, "b c h w -> b 1 1 1", "mean")
    image = mean + (contrast + 0.5) * (image - mean)
    return _shifted(image, uniform[:, 3:])


def _shifted(
    image: Float[Tensor, "b 3 h w"], uniform: Float[Tensor, "b 2"]
) -> Float[Tensor, "b 3 h w"]:
    """Move each image by up to an eighth of its side, a whole number of pixels; fill with 0."""
    height, width = image.shape[2:]
    most = [round(side * _LARGEST_SHIFT) for side in (height, width)]
    padded = F.pad(image, (most[1], most[1], most[0], most[0]))
    top, left = ((uniform[:, i] * (2 * most[i] + 1)).long() for i in range(2))
    rows = top[:, None] + torch.arange(height, device=image.device)
    columns = left[:, None] + torch.arange(width, device=image.device)
    batch = torch.arange(len(image), device=image.device)
    moved = padded[batch[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.movedim(-1, 1)
