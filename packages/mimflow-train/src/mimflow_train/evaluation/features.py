"""Features of images that come in batches, so that a set need not fit in memory."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from genmetrics import Extractor, extract_features

__all__ = ["features_of"]


def features_of(
    batches: Iterable[UInt8[Tensor, "b 3 h w"]], extractor: Extractor
) -> Float[Tensor, "n f"]:
    """Return the features of all images, on the CPU.

    Args:
        batches: RGB bytes, at least one batch.
        extractor: The feature network.
    """
    return torch.cat([extract_features(batch, extractor) for batch in batches])
