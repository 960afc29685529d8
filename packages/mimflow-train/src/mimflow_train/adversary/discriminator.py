"""The adversary of the decoder phase (Eq. 8): PatchGAN's discriminator and its losses."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mimflow_train.config import DiscriminatorConfig

__all__ = [
    "LeCam",
    "PatchDiscriminator",
    "hinge_discriminator",
    "hinge_generator",
    "lecam_penalty",
]

_GROUPS = 32
_MOST_WIDTHS = 8


class PatchDiscriminator(nn.Module):
    """Says of every patch of an image whether it looks real (arXiv 1611.07004).

    Convolutions of 4 x 4, ``depth`` of them with stride 2. Channels are normalised in groups within
    each image, not over the batch as in the original: an image's logits then depend neither on
    the batch nor on how workers share it, and real and decoded images can go through together.

    Args:
        config: Width and depth.

    Example:
        >>> import torch
        >>> discriminator = PatchDiscriminator(DiscriminatorConfig())
        >>> discriminator(torch.zeros(1, 3, 256, 256)).shape
        torch.Size([1, 1, 30, 30])
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * min(2**level, _MOST_WIDTHS) for level in range(config.depth + 1)]
        layers: list[nn.Module] = [_convolution(3, widths[0], stride=2), nn.LeakyReLU(0.2)]
        for level in range(1, config.depth + 1):
            stride = 2 if level < config.depth else 1
            layers += [
                _convolution(widths[level - 1], widths[level], stride=stride, bias=False),
                nn.GroupNorm(min(_GROUPS, widths[level]), widths[level]),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, _convolution(widths[-1], 1, stride=1))

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 rows columns"]:
        """Return a logit for each patch, above 0 for real.

        Args:
            image: Images in [-1, 1].
        """
        logits: Tensor = self.layers(image)
        return logits


def _convolution(inputs: int, outputs: int, *, stride: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=4, stride=stride, padding=1, bias=bias)


def hinge_discriminator(
    real: Float[Tensor, "b ..."], fake: Float[Tensor, "b ..."]
) -> Float[Tensor, ""]:
    """Return ``(mean relu(1 - real) + mean relu(1 + fake)) / 2``.

    Args:
        real: Logits of real images.
        fake: Logits of decoded ones.

    Example:
        >>> import torch
        >>> two = torch.full((1, 1, 1, 1), 2.0)
        >>> hinge_discriminator(two, -two).item(), hinge_discriminator(0 * two, 0 * two).item()
        (0.0, 1.0)
    """
    return (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()) / 2


def hinge_generator(fake: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
    """Return ``-mean fake``: what the decoder minimises.

    Args:
        fake: Logits of decoded images.
    """
    return -fake.float().mean()


class LeCam(nn.Module):
    """Moving averages of the discriminator's mean logits, of real and decoded images.

    Their decay is 0.999, and they are corrected for their start at 0 (arXiv 2104.03310).
    """

    decay = 0.999

    def __init__(self) -> None:
        super().__init__()
        for name in ("real", "fake", "weight"):
            self.register_buffer(name, torch.zeros(()))

    def update(self, real: Float[Tensor, ""], fake: Float[Tensor, ""]) -> None:
        """Take in the mean logits of a step."""
        for name, value in {"real": real, "fake": fake, "weight": torch.ones_like(real)}.items():
            self.get_buffer(name).lerp_(value, 1 - self.decay)

    def averages(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the averages of real and of decoded images; 0 before the first step."""
        weight = self.get_buffer("weight").clamp(min=1e-12)
        return self.get_buffer("real") / weight, self.get_buffer("fake") / weight


def lecam_penalty(
    real: Float[Tensor, "b ..."], fake: Float[Tensor, "b ..."], lecam: LeCam
) -> Float[Tensor, ""]:
    """Return ``mean relu(real - average fake)^2 + mean relu(average real - fake)^2``.

    It holds the logits of either kind near what the other kind got, so that few images do not make
    the discriminator certain.

    Args:
        real: Logits of real images.
        fake: Logits of decoded ones.
        lecam: The averages.
    """
    average_real, average_fake = lecam.averages()
    above = F.relu(real.float() - average_fake).square().mean()
    return above + F.relu(average_real - fake.float()).square().mean()
