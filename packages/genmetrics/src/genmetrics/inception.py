"""The Inception network of FID, through torch-fidelity's bit-exact port of the 2015 graph."""

import io
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from genmetrics.errors import WeightsUnavailable
from genmetrics.weights import load_state_dict

WEIGHTS_VARIABLE = "GENMETRICS_INCEPTION_WEIGHTS"
WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS_FILE}"
SHA256_PREFIX = "6726825d"
PREPROCESS_ID = "tf1-bilinear-299;(x-128)/128"


def find_inception_weights(
    weights: Path | None = None, environment: Mapping[str, str] = os.environ
) -> Path:
    """Return the weight file: the argument, else the environment's, else torch-fidelity's cache.

    Args:
        weights: A file, or None to search.
        environment: Variables to look in.

    Raises:
        WeightsUnavailable: If no file is found; nothing is downloaded.
    """
    named = weights or (
        Path(environment[WEIGHTS_VARIABLE]) if WEIGHTS_VARIABLE in environment else None
    )
    file = named or Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_FILE
    if file.is_file():
        return file
    raise WeightsUnavailable(
        f"Expected the Inception weights {WEIGHTS_FILE} (sha256 {SHA256_PREFIX}...); found no file "
        f"at {file}. Fetch {WEIGHTS_URL} and pass "
        f"--weights FILE or set {WEIGHTS_VARIABLE}, or use --extractor efflite0, which needs no "
        "download (its scores are not FID)."
    )


class InceptionFeatures(nn.Module):
    """The 2048 pooled features (``pool_3``) of uint8 images, as ADM's evaluator computes them.

    Args:
        weights: A state dict in torch-fidelity's layout.
    """

    dim = 2048

    def __init__(self, weights: Path) -> None:
        super().__init__()
        state = load_state_dict(weights)
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # torch-fidelity unpickles what it is given; a copy that we wrote holds tensors only.
        safe = io.BytesIO()
        torch.save(state, safe)
        safe.seek(0)
        try:
            network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=safe
            )
        except RuntimeError as error:
            first_line = str(error).partition("\n")[0]
            raise WeightsUnavailable(
                f"Expected torch-fidelity's Inception weights in {weights}; got {first_line!r}. "
                f"Fetch {WEIGHTS_FILE}."
            ) from error
        # 1.5x faster on a CPU; changes features by rounding only.
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> Float32[Tensor, "b 2048"]:
        """Return one feature per image."""
        pooled: Tensor = self.network(images)[0]
        return pooled
