"""What this machine has; imports torch only where there may be a GPU, or to return a device."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from genmetrics import keep_freed_memory
from mimflow_train.errors import ConfigError

if TYPE_CHECKING:
    import torch

__all__ = [
    "choose_device",
    "computing_device",
    "count_cores",
    "count_devices",
    "require_gpu",
    "require_gpu_for_graph",
    "torchrun_place",
]

_GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA, NVIDIA under WSL, AMD


def count_cores() -> int:
    """Return the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_device(wanted: str) -> str:
    """Return ``cpu`` or ``cuda``.

    Args:
        wanted: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: If CUDA was asked for and there is none.
    """
    found = wanted != "cpu" and any(Path(each).exists() for each in _GPU_FILES)
    if found:
        import torch

        found = torch.cuda.is_available()
    if wanted == "cuda" and not found:
        raise ConfigError("Expected a CUDA device; this machine has none. Use --device auto.")
    return "cuda" if found else "cpu"


def computing_device(wanted: str) -> "torch.device":
    """Return the device to compute on; if it is a CPU, this process keeps freed memory from now on.

    Args:
        wanted: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: If CUDA was asked for and there is none.
    """
    kind = choose_device(wanted)  # before torch is imported, since it may raise

    import torch

    if kind == "cpu":
        keep_freed_memory()
    return torch.device(kind)


def require_gpu(scale: str, wanted: str) -> None:
    """Raise if a scale that takes years on CPUs would be trained on one without being asked to.

    Args:
        scale: Name of the recipe.
        wanted: ``auto``, ``cpu`` or ``cuda``, as the user gave it.

    Raises:
        ConfigError: If the recipe is larger than tiny and ``auto`` finds no GPU.
    """
    if scale != "tiny" and wanted == "auto" and choose_device(wanted) == "cpu":
        raise ConfigError(
            f"Expected a GPU for --scale {scale}; this machine has none. Use --scale tiny, or "
            "--device cpu to train on the CPU all the same; mimflow-train's --dry-run says how "
            "long that takes."
        )


def require_gpu_for_graph(device: str, *, sharded: bool) -> None:
    """Raise if a pass could not be a CUDA graph, whatever it computes.

    Args:
        device: ``cpu`` or ``cuda``.
        sharded: Whether workers have parts of the weights, which they send during a pass.

    Raises:
        ConfigError: If it is no pass of a GPU that has all weights.
    """
    if device != "cuda" or sharded:
        found = "workers that shard the weights (shard=true)" if sharded else f"a {device}"
        raise ConfigError(
            f"Expected a GPU that has all weights with cuda_graph; got {found}. "
            "Leave cuda_graph out."
        )


def torchrun_place() -> tuple[int, int] | None:
    """Return rank and number of workers if torchrun, or something like it, started this process."""
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return None
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def count_devices(device: str) -> int:
    """Return how many workers can have a device of their own."""
    if device == "cpu":
        return count_cores()
    import torch

    return torch.cuda.device_count()
