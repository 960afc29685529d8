"""The Inception network of FID, through torch-fidelity's bit-exact port of the 2015 graph."""

import io
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from genmetrics.errors import WeightsUnavailable
from genmetrics.networks.feature_network import FeatureNetwork
from genmetrics.networks.weights import (
    load_state_dict,
    sha256_of,
    torch_hub_file,
    weights_folder_file,
)

WEIGHTS_VARIABLE = "GENMETRICS_INCEPTION_WEIGHTS"
WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS_FILE}"
SHA256_PREFIX = "6726825d"
INPUT_SIZE = 299
SPATIAL_CHANNELS = 7
PREPROCESS_ID = "tf1-bilinear-299;(x-128)/128"


def find_inception_weights(
    weights: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    *,
    download: bool | None = None,
) -> Path:
    """Return the weight file: the argument, else the environment's, else torch-fidelity's cache.

    Args:
        weights: A file, or None to search.
        environment: Variables to look in: one that names the file, or GENMETRICS_WEIGHTS, a folder.
        download: Whether to fetch what is nowhere; None for yes unless offline.

    Raises:
        WeightsUnavailable: If no file is found and none can be fetched.
    """
    named = weights or (
        Path(environment[WEIGHTS_VARIABLE]) if WEIGHTS_VARIABLE in environment else None
    )
    file = named or weights_folder_file([WEIGHTS_FILE], environment)
    if file is None:
        try:
            return torch_hub_file(
                WEIGHTS_URL, SHA256_PREFIX, download=download, environment=environment
            )
        except OSError as error:
            raise _unavailable(str(error)) from error
    if not file.is_file():
        raise _unavailable(f"found no file at {file}")
    return file


def _unavailable(what_happened: str) -> WeightsUnavailable:
    return WeightsUnavailable(
        f"Expected the Inception weights {WEIGHTS_FILE} (sha256 {SHA256_PREFIX}...); "
        f"{what_happened}. Fetch {WEIGHTS_URL} and pass "
        f"--weights FILE or set {WEIGHTS_VARIABLE}, or use --extractor efflite0, which needs no "
        "download (its scores are not FID)."
    )


class InceptionFeatures(FeatureNetwork):
    """Both features of ADM's evaluator and its Inception logits, of uint8 images.

    ``pool3`` are the 2048 pooled features of FID. ``spatial`` are the first 7 channels of
    ``mixed_6/conv`` (torch-fidelity's ``Mixed_6d.branch1x1``) at 17 x 17 places, in the order
    height, width, channel of ADM's reference files: those of sFID. The classifier is the last
    layer without its bias, as the Inception Score has it.

    Args:
        weights: A state dict in torch-fidelity's layout.
    """

    preprocess_id = PREPROCESS_ID

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.outputs = {"pool3": 2048, "spatial": 2023}
        self.weights_sha256 = sha256_of(weights)
        network = _torch_fidelity_network(weights)
        last = network.get_submodule("fc")
        assert isinstance(last, nn.Linear)
        unbiased = nn.Linear(2048, 1008, bias=False)
        unbiased.weight = last.weight
        self.classifier = unbiased
        # channels_last is 1.5x faster on a CPU; changes features by rounding only.
        self.layers = nn.ModuleDict(
            {name: layer for name, layer in network.named_children() if name != "fc"}
        ).to(memory_format=torch.channels_last)

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> dict[str, Float32[Tensor, "b _"]]:
        """Return both features of each image."""
        x = (tf1_bilinear(images.float(), INPUT_SIZE) - 128) / 128
        for name, layer in self.layers.items():
            x = layer(x)
            if name == "Mixed_6d":  # concatenates its branches, branch1x1 first
                spatial = spatial_features(x)
        return {"pool3": x.flatten(1), "spatial": spatial}


def spatial_features(
    maps: Float32[Tensor, "b c rows columns"],
) -> Float32[Tensor, "b _"]:
    """Return the first 7 channels of feature maps as vectors: place by place, channels last.

    Example:
        >>> spatial_features(torch.arange(36.0).reshape(1, 9, 2, 2))[0, 5:9].tolist()
        [20.0, 24.0, 1.0, 5.0]
    """
    return maps[:, :SPATIAL_CHANNELS].movedim(1, -1).flatten(1)


def tf1_bilinear(image: Float32[Tensor, "b 3 h w"], size: int) -> Float32[Tensor, "b 3 s s"]:
    """Resize as TensorFlow 1 did: places ``i * in / out``, no half-pixel shift, no antialiasing.

    Two products with interpolation matrices; within 6e-5 grey levels of gathering the four
    neighbours on a CPU, several times faster.

    Args:
        image: Any range.
        size: Side of the result.

    Example:
        >>> row = torch.tensor([0.0, 30.0, 60.0]).expand(1, 3, 3, 3)
        >>> tf1_bilinear(row, 2)[0, 0]
        tensor([[ 0., 45.],
                [ 0., 45.]])
    """
    height, width = image.shape[-2:]
    rows, columns = (_tf1_matrix(side, size, image.device) for side in (height, width))
    return rows @ (image @ columns.T)


def _tf1_matrix(side: int, size: int, device: torch.device) -> Float32[Tensor, "s side"]:
    """Return the weight of each place of a side in each place of the resized side."""
    at = torch.arange(size, dtype=torch.float32) * torch.tensor(side / size, dtype=torch.float32)
    low = at.long()
    share = at - low
    matrix = torch.zeros(size, side, dtype=torch.float32)
    places = torch.arange(size)
    matrix[places, low] = 1 - share
    matrix[places, (low + 1).clamp_max(side - 1)] += share  # the last place twice: weights sum to 1
    return matrix.to(device)


def _torch_fidelity_network(weights: Path) -> nn.Module:
    state = load_state_dict(weights)
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # torch-fidelity unpickles what it is given; a copy that we wrote holds tensors only.
    safe = io.BytesIO()
    torch.save(state, safe)
    safe.seek(0)
    try:
        network: nn.Module = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=safe
        )
    except RuntimeError as error:
        first_line = str(error).partition("\n")[0]
        raise WeightsUnavailable(
            f"Expected torch-fidelity's Inception weights in {weights}; got {first_line!r}. "
            f"Fetch {WEIGHTS_FILE}."
        ) from error
    return network.float()
