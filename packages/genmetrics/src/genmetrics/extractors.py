"""Feature networks under one roof: uint8 images in, one float32 vector per image out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from genmetrics import efflite0, inception
from genmetrics.errors import UsageError
from genmetrics.weights import sha256_of

ExtractorName = Literal["inception", "efflite0"]


@dataclass(frozen=True, slots=True)
class Extractor:
    """A frozen feature network with everything that a score made from it depends on.

    Args:
        name: How scores name it.
        dim: Numbers per feature.
        preprocess_id: Resizing and normalisation, in words.
        weights_sha256: Digest of the weight file.
        network: Maps uint8 images to features.
        device: Where it runs.
    """

    name: str
    dim: int
    preprocess_id: str
    weights_sha256: str
    network: nn.Module
    device: torch.device

    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Float32[Tensor, "b d"]:
        """Return features on the extractor's device, in full float32 (no TF32)."""
        with _full_float32(self.device):
            features: Tensor = self.network(images.to(self.device))
        return features

    @property
    def frechet_name(self) -> str:
        """Name of a Frechet distance of these features: only Inception's may be called FID."""
        return "fid" if self.name == "inception" else f"fd_{self.name}"


def get_extractor(
    name: ExtractorName, *, weights: Path | None = None, device: str | torch.device = "cpu"
) -> Extractor:
    """Build a feature network, never downloading and never falling back to random weights.

    Args:
        name: ``inception`` (the network of FID) or ``efflite0`` (a small ImageNet network whose
            weights ship in a package; its distances are called ``fd_efflite0``).
        weights: The weight file. None means the package's file for ``efflite0``; for
            ``inception`` the variable GENMETRICS_INCEPTION_WEIGHTS, then torch-fidelity's cache.
        device: Where to run, such as ``cpu`` or ``cuda:0``.

    Raises:
        UsageError: If there is no such extractor.
        WeightsUnavailable: If the weights are missing or not the right ones.

    Example:
        >>> extractor = get_extractor("efflite0")
        >>> extractor(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 1280])
    """
    network: nn.Module
    if name == "efflite0":
        network, digest = efflite0.EffLite0Features(weights), efflite0.EFFLITE0_SHA256
        dim, preprocess_id = efflite0.EffLite0Features.dim, efflite0.PREPROCESS_ID
    elif name == "inception":
        file = inception.find_inception_weights(weights)
        network, digest = inception.InceptionFeatures(file), sha256_of(file)
        dim, preprocess_id = inception.InceptionFeatures.dim, inception.PREPROCESS_ID
    else:
        raise UsageError(f"Expected the extractor inception or efflite0; got {name!r}.")
    return Extractor(name, dim, preprocess_id, digest, network.to(device), torch.device(device))


@contextmanager
def _full_float32(device: torch.device) -> Iterator[None]:
    """Switch TF32 and autotuning off for the block: both change features by more than rounding."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        yield
