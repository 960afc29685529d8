"""What a checkpoint was computed with, on which its bits depend, and whether that is still so."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import torch

from mimflow_train.micro_batches import is_bf16

__all__ = ["changed_arithmetic", "precision_on", "versions"]


def precision_on(device: torch.device, precision: str) -> str:
    """Return what steps are computed in, and on what: ``bf16 on cuda``, say.

    Args:
        device: Where they are computed.
        precision: As the run's configuration has it.
    """
    return f"{'bf16' if is_bf16(device, precision) else 'fp32'} on {device.type}"


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    return {name: importlib.metadata.version(name) for name in ("mimflow-train", "torch")}


def changed_arithmetic(
    manifest: Mapping[str, Any], device: torch.device, precision: str
) -> str | None:
    """Return what a run was trained in and what it would go on in; None if that is the same.

    Args:
        manifest: Of the checkpoint from which it goes on; what it does not say has not changed.
        device: Where the run goes on.
        precision: As the run's configuration has it.
    """
    precision, torch_version = precision_on(device, precision), versions()["torch"]
    before = manifest.get("precision", precision)
    version_before = manifest.get("versions", {}).get("torch", torch_version)
    if (before, version_before) == (precision, torch_version):
        return None
    return (
        f"trained in {before} with torch {version_before}; this goes on in {precision} "
        f"with torch {torch_version}"
    )
