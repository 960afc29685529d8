"""The distribution of latents given a masked image (Eq. 1)."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree

from mim_encoder.inputs import require_generator


class LatentPosterior(NamedTuple):
    """``q(z | x_m)``: normal entries of one fixed deviation around the encoder's output.

    Args:
        mean: Latent tokens without noise, ``(b, k, d)``.
        sigma: Standard deviation of every entry.
        features: The normalised tokens from which ``mean`` is projected, ``(b, k, width)``; linear
            probes read these.

    Example:
        >>> posterior = LatentPosterior(torch.zeros(1, 2, 3), 0.5, torch.zeros(1, 2, 8))
        >>> posterior.perturb(torch.ones(1, 2, 3)).unique()
        tensor([0.5000])
    """

    mean: Float[Tensor, "b k d"]
    sigma: float
    features: Float[Tensor, "b k width"]

    def perturb(self, noise: Float[Tensor, "b k d"]) -> Float[Tensor, "b k d"]:
        """Return ``mean + sigma * noise`` (Eq. 1).

        Args:
            noise: Standard normal numbers.
        """
        return self.mean + self.sigma * noise

    def sample(self, *, generator: torch.Generator | None = None) -> Float[Tensor, "b k d"]:
        """Draw latents; gradients reach the mean.

        Args:
            generator: Source of randomness; the noise is drawn on its device.

        Raises:
            TypeError: If it is no generator.
        """
        require_generator(generator)
        source = self.mean.device if generator is None else generator.device
        noise = torch.randn(
            self.mean.shape, generator=generator, device=source, dtype=self.mean.dtype
        )
        return self.perturb(noise.to(self.mean.device))


# So that torch.export.save can write an encoder.
_pytree._register_namedtuple(LatentPosterior, serialized_type_name="mim_encoder.LatentPosterior")
