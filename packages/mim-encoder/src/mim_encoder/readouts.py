"""What a run should watch: how much of an image the latents carry."""

import math
from typing import NamedTuple

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from mim_encoder.checks import require_count, require_positive, require_type


class LatentStatistics(NamedTuple):
    """How latents are spread; see `latent_statistics`.

    Args:
        mean: Mean of all entries.
        std: Standard deviation of all entries.
        std_across_images: Root mean square, over the entries of a latent, of their standard
            deviation from image to image; 0 for an encoder that ignores the image.
        effective_rank: Directions in which the latents of an image vary, in [1, min(b - 1, k * d)];
            0 if they do not vary at all.
        dead_share: Share of entries that hardly vary from image to image, in [0, 1].
    """

    mean: float
    std: float
    std_across_images: float
    effective_rank: float
    dead_share: float


def latent_statistics(
    mean: Float[Tensor, "b k d"], sigma: float, *, dead_fraction: float = 0.01
) -> LatentStatistics:
    """Describe how noiseless latents vary from image to image.

    The effective rank is ``exp(entropy)`` of the eigenvalues of the covariance of the ``k * d``
    entries, divided by their sum. It cannot exceed ``b - 1``: compare it between runs at one ``b``.
    Everything is computed in float64 and waits for the GPU; the work grows with the cube of the
    smaller one of ``b`` and ``k * d``.

    Args:
        mean: Latents without noise, of at least two images.
        sigma: Standard deviation of the latent noise, at least 0.
        dead_fraction: An entry is dead if its variance across images is at most this share of
            ``sigma**2``; 0.01 is 0.007 bits for a normal entry.

    Raises:
        TypeError: If the latents are no tensor.
        ValueError: If they are not of shape (b, k, d), of fewer than two images or not finite.

    Example:
        >>> signs = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> statistics = latent_statistics(signs[:, None], sigma=0.3)
        >>> statistics.effective_rank, statistics.dead_share
        (1.0, 0.5)
    """
    require_type(Tensor, "a torch.Tensor", "Give it posterior.mean.", mean=mean)
    if mean.ndim != 3:
        raise ValueError(
            f"Expected mean of shape (b, k, d); got {tuple(mean.shape)}. "
            "Concatenate the latents of many images."
        )
    if len(mean) < 2:
        raise ValueError(
            f"Expected latents of at least 2 images; got {len(mean)}. "
            "Collect the latents of several batches first."
        )
    entries = rearrange(mean.double(), "b k d -> b (k d)")
    diverged = int((~entries.isfinite()).any(1).sum())
    if diverged:
        raise ValueError(
            f"Expected finite latents; got NaN or infinity in {diverged} of {len(mean)} images. "
            "Encode with weights from before the encoder diverged."
        )
    # Relative to one image first: equal images then differ by exactly 0.
    across = entries - entries[:1]
    across = across - reduce(across, "b entries -> 1 entries", "mean")
    variance = reduce(across.square(), "b entries -> entries", "sum") / (len(mean) - 1)
    dead = variance <= dead_fraction * sigma**2
    return LatentStatistics(
        mean=entries.mean().item(),
        std=entries.std(correction=0).item(),
        std_across_images=variance.mean().sqrt().item(),
        effective_rank=_effective_rank(across),
        dead_share=dead.double().mean().item(),
    )


def rate_bits(nll_per_dim: float, sigma: float, num_dims: int) -> float:
    """Return the bits per image above the noise floor: a bound on what the latents tell of it.

    Latents with noise of deviation ``sigma`` have at least the entropy of the noise, so no flow can
    bring its loss below ``1/2 + ln(sigma)`` per dimension (-0.704 at 0.3).

    Args:
        nll_per_dim: Negative log-likelihood of the noisy latents in nats per dimension, without the
            constant ``ln(2 pi) / 2``, as TARFlow and the release give it.
        sigma: Standard deviation of the latent noise, above 0.
        num_dims: Entries of an image's latents, ``k * d``.

    Returns:
        Bits per image. Below 0 only through the sampling error of ``nll_per_dim``.

    Raises:
        TypeError: If ``sigma`` is no number, or ``num_dims`` no whole one.
        ValueError: If ``sigma`` or ``num_dims`` is not above 0, or ``sigma`` not finite.

    Example:
        >>> round(rate_bits(0.5 + math.log(0.6), sigma=0.3, num_dims=10), 6)
        10.0
    """
    require_positive(sigma=sigma)
    require_count(num_dims=num_dims)
    floor = 0.5 + math.log(sigma)
    return (nll_per_dim - floor) * num_dims / math.log(2)


def _effective_rank(centred: Float[Tensor, "b entries"]) -> float:
    num_images, num_entries = centred.shape
    gram = centred @ centred.mT if num_images < num_entries else centred.mT @ centred
    spectrum = torch.linalg.eigvalsh(gram).clamp(min=0)
    if not spectrum.any():
        return 0.0
    shares = spectrum / spectrum.sum()
    return math.exp(torch.special.entr(shares).sum().item())
