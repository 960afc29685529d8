"""LPIPS: the distance of two images in a classifier's features, through the package lpips.

The linear heads come with that package; the backbone is torchvision's ImageNet classifier, from a
file, a folder of weight files, torchvision's cache or its download.
"""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor, nn

from genmetrics.checks import require_bytes, require_pairs
from genmetrics.errors import BadInput, WeightsUnavailable, one_of
from genmetrics.full_precision import full_float32
from genmetrics.networks.pretrained_networks import import_library
from genmetrics.networks.weights import (
    FOLDER_VARIABLE,
    load_state_dict,
    sha256_of,
    torch_hub_file,
    weights_folder_file,
)

LPIPSNet = Literal["alex", "vgg", "squeeze"]
LPIPSVersion = Literal["0.0", "0.1"]

WEIGHTS_FILE = {  # torchvision's; eight digits of the sha256 are part of the name
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
_URL = "https://download.pytorch.org/models/"
_SMALLEST_SIDE = {"alex": 31, "vgg": 16, "squeeze": 17}


@dataclass(frozen=True, slots=True)
class PerceptualDistance:
    """LPIPS with everything that its value depends on.

    Args:
        net: Backbone: ``alex`` (the metric's default), ``vgg`` (usual in losses) or ``squeeze``.
        version: Version of the linear heads; 0.0 does not scale its inputs.
        weights_sha256: Digest of the backbone's weight file.
        network: The module of the package lpips, frozen.
        device: Where it runs.
    """

    net: LPIPSNet
    version: LPIPSVersion
    weights_sha256: str
    network: nn.Module
    device: torch.device

    def __call__(
        self, real: UInt8[Tensor, "b 3 h w"], recon: UInt8[Tensor, "b 3 h w"]
    ) -> Float64[Tensor, " b"]:
        """Return the distance of each pair, on the CPU, computed in full float32 (no TF32).

        Raises:
            BadInput: If the images are too small for the backbone, not bytes, or not in pairs.
        """
        require_bytes(real)
        require_bytes(recon)
        require_pairs(real, recon)
        smallest = _SMALLEST_SIDE[self.net]
        if min(real.shape[2:]) < smallest:
            raise BadInput(
                f"Expected images of at least {smallest} pixels a side for LPIPS {self.net}; "
                f"got {real.shape[3]}x{real.shape[2]}. Leave lpips out."
            )
        x, y = (images.to(self.device).float() / 127.5 - 1 for images in (real, recon))
        with torch.no_grad(), full_float32(self.device):
            distance: Tensor = self.network(x, y)
        return distance.flatten().cpu().double()

    @property
    def standard_weights(self) -> bool:
        """Whether the backbone is torchvision's ImageNet one, as in the literature."""
        stem = Path(WEIGHTS_FILE[self.net]).stem
        return self.weights_sha256.startswith(stem.rpartition("-")[2])


def perceptual_distance(
    net: LPIPSNet = "alex",
    *,
    version: LPIPSVersion = "0.1",
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> PerceptualDistance:
    """Build LPIPS, never falling back to random weights.

    Args:
        net: The backbone.
        version: The version of the linear heads.
        weights: The backbone's file, a state dict of torchvision's classifier. None takes the one
            in the folder GENMETRICS_WEIGHTS, else torchvision's cache, else its download; the
            latter not where GENMETRICS_OFFLINE is 1.
        device: Where to run, such as ``cpu`` or ``cuda:0``.

    Raises:
        UsageError: If there is no such net or version.
        WeightsUnavailable: If the package or the weights are missing, or do not fit.
    """
    one_of(get_args(LPIPSNet), net=net)
    one_of(get_args(LPIPSVersion), version=version)
    network = _heads_on_random_backbone(net, version)
    file = find_backbone_weights(net, None if weights is None else Path(weights))
    _load_backbone(network.net, file)  # type: ignore[arg-type]  # a module, the stub cannot say
    network.to(device).requires_grad_(False)  # noqa: FBT003  # torch's own signature
    return PerceptualDistance(net, version, sha256_of(file), network, torch.device(device))


def find_backbone_weights(net: LPIPSNet, weights: Path | None = None) -> Path:
    """Return the weight file, fetching it if it is nowhere and fetching is allowed.

    Args:
        net: The backbone.
        weights: A file, or None to search.

    Raises:
        WeightsUnavailable: If there is no such file and none can be fetched.
    """
    name = WEIGHTS_FILE[net]
    if weights is not None:
        if not weights.is_file():
            raise _unavailable(net, f"found no file at {weights}")
        return weights
    if (file := weights_folder_file([name])) is not None:
        return file
    try:
        return torch_hub_file(_URL + name, Path(name).stem.rpartition("-")[2])
    except OSError as error:
        raise _unavailable(net, str(error)) from error


def _unavailable(net: LPIPSNet, what_happened: str) -> WeightsUnavailable:
    name = WEIGHTS_FILE[net]
    return WeightsUnavailable(
        f"Expected the LPIPS {net} backbone {name}; {what_happened}. Fetch {_URL}{name} and pass "
        f"--lpips-weights FILE or put it in the folder {FOLDER_VARIABLE}, or leave lpips out of "
        "--metrics."
    )


def _heads_on_random_backbone(net: LPIPSNet, version: LPIPSVersion) -> nn.Module:
    lpips = import_library("lpips", "lpips")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # lpips calls torchvision by its old arguments
        network: nn.Module = lpips.LPIPS(net=net, version=version, pnet_rand=True, verbose=False)
    return network.float().eval()


def _load_backbone(backbone: nn.Module, file: Path) -> None:
    """Fill the slices that lpips cuts a classifier into: ``features.3`` is ``slice2.3``."""
    found = load_state_dict(file)
    expected = backbone.state_dict()
    names = {key: re.sub(r"^slice\d+", "features", key) for key in expected}
    wrong = [
        name
        for key, name in names.items()
        if name not in found or found[name].shape != expected[key].shape
    ]
    if wrong:
        raise WeightsUnavailable(
            f"Expected the classifier weights of torchvision in {file}; {len(wrong)} of "
            f"{len(names)} tensors are missing or of another shape, the first being {wrong[0]}. "
            "Check that the file belongs to the LPIPS net."
        )
    backbone.load_state_dict({key: found[name] for key, name in names.items()})
