"""What happens to uint8 images before a pretrained network: resize, crop, normalise."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """How a network sees images.

    Attributes:
        size: Side of the square that the network sees.
        scaled: Side before the middle of ``size`` is cut out; at least ``size``.
        squash: True: both sides become ``scaled``. False: the short side does, and the long side
            keeps its proportion.
        interpolation: ``bicubic`` or ``bilinear``.
        pillow: True: antialiased and rounded to grey levels, as Pillow resizes (within one level).
            False: neither, as torch resizes by default.
        mean: Of each channel, in [0, 1].
        std: Of each channel.
    """

    size: int
    scaled: int
    squash: bool
    interpolation: str
    pillow: bool = True
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @property
    def identity(self) -> str:
        """Say all of it in words.

        Example:
            >>> Preprocessing(size=224, scaled=235, squash=False, interpolation="bicubic").identity
            'bicubic-pillow-short235-crop224;(x/255-[0.485,0.456,0.406])/[0.229,0.224,0.225]'
        """
        kind = "pillow" if self.pillow else "torch"
        sides = "square" if self.squash else "short"
        crop = "" if self.squash and self.scaled == self.size else f"-crop{self.size}"
        mean, std = (",".join(map(repr, values)) for values in (self.mean, self.std))
        return f"{self.interpolation}-{kind}-{sides}{self.scaled}{crop};(x/255-[{mean}])/[{std}]"

    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Float32[Tensor, "b 3 s s"]:
        """Return what the network sees."""
        height, width = images.shape[-2:]
        sides = (self.scaled, self.scaled)
        if not self.squash:
            short = min(height, width)
            sides = (self.scaled * height // short, self.scaled * width // short)
        x = images.float()
        if self.pillow:
            x = pillow_resize(x, sides, self.interpolation)
        else:
            x = F.interpolate(x, sides, mode=self.interpolation)
        # The corner is torchvision's, half to even.
        top, left = (round((side - self.size) / 2) for side in sides)
        x = x[..., top : top + self.size, left : left + self.size]
        mean, std = (
            torch.tensor(values, dtype=x.dtype, device=x.device).reshape(3, 1, 1)
            for values in (self.mean, self.std)
        )
        return (x / 255 - mean) / std


def pillow_resize(
    images: Float32[Tensor, "b 3 h w"], sides: tuple[int, int], interpolation: str
) -> Float32[Tensor, "b 3 rows columns"]:
    """Resize grey levels to within one level of Pillow: antialiased, rounded, kept in [0, 255].

    Args:
        images: Grey levels, 0 to 255.
        sides: Height and width of the result.
        interpolation: ``bicubic`` or ``bilinear``.

    Example:
        >>> image = torch.full((1, 3, 4, 6), 77.0)
        >>> pillow_resize(image, (3, 3), "bicubic").unique().tolist()
        [77.0]
    """
    if tuple(images.shape[-2:]) == sides:
        return images
    for passed in ((images.shape[2], sides[1]), sides):  # Pillow rounds after each direction
        images = F.interpolate(images, passed, mode=interpolation, antialias=True)
        images = images.round().clamp(0, 255)
    return images


def scaled_side(size: int, crop_share: float) -> int:
    """Return the side before a crop that keeps some share of it, as timm counts.

    Example:
        >>> scaled_side(224, 0.95)
        235
    """
    return math.floor(size / crop_share)
