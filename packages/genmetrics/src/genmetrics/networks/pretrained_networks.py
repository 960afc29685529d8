"""A network of another library as a feature network.

Weights come from a file, the folder GENMETRICS_WEIGHTS or the library's repository on the Hugging
Face hub, as a file in each case, so that its digest is known and nothing is left random.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from genmetrics.errors import UsageError, WeightsUnavailable
from genmetrics.networks.feature_network import FeatureNetwork
from genmetrics.networks.preprocessing import Preprocessing
from genmetrics.networks.weights import sha256_of


class PretrainedFeatures(FeatureNetwork):
    """A network that maps normalised images to vectors, with its preprocessing.

    Args:
        network: The network, its weights loaded.
        preprocessing: What it sees.
        weights: The file that its weights are from.
        variant: What else makes its features differ from the library's own, for the identifier.
    """

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, weights: Path, variant: str = ""
    ) -> None:
        super().__init__()
        network = network.float().eval()
        self.network = network.requires_grad_(False)  # noqa: FBT003  # torch's own signature
        self.preprocessing = preprocessing
        self.preprocess_id = preprocessing.identity + variant
        self.weights_sha256 = sha256_of(weights)
        self.classifier = None
        side = preprocessing.size
        features: Tensor = self.network(torch.zeros(1, 3, side, side, dtype=torch.float32))
        self.outputs = {"features": features.shape[1]}

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> dict[str, Float32[Tensor, "b d"]]:
        """Return one feature per image."""
        return {"features": self.network(self.preprocessing(images))}


def import_library(module: str, extra: str) -> ModuleType:
    """Import a library that an extra brings.

    Raises:
        WeightsUnavailable: If it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise WeightsUnavailable(
            f"Expected the library {module}; got {error}. Install genmetrics[{extra}]."
        ) from error


def misfit(what: str, file: Path, error: Exception) -> WeightsUnavailable:
    """Return the error for a file that does not hold the weights of a network."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = " ".join(lines[:2])[:300] or type(error).__name__
    return WeightsUnavailable(
        f"Expected the weights of {what} in {file}; got {reason!r}. Pass the file of this network."
    )


def checked_interpolation(name: str, interpolation: str) -> str:
    """Return how a network wants images resized.

    Raises:
        UsageError: If it is not supported.
    """
    if interpolation not in ("bicubic", "bilinear"):
        raise UsageError(
            f"Expected a model whose images are resized bicubic or bilinear; {name} wants "
            f"{interpolation}. Choose another model."
        )
    return interpolation
