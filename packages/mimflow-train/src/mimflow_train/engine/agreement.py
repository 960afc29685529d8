"""What all workers have to agree on before they train."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from mimflow_train.config import TrainConfig
from mimflow_train.config.differences import differences
from mimflow_train.config.file import to_dict
from mimflow_train.engine.context import Context
from mimflow_train.errors import ConfigError, DataError, StorageError
from mimflow_train.plan import Plan
from mimflow_train.storage.arithmetic import versions

__all__ = ["require_same_run", "told_by_rank_0"]

Told = TypeVar("Told")


def require_same_run(context: Context, config: TrainConfig, plan: Plan) -> None:
    """Raise on a worker whose images or options are not rank 0's; torchrun's each have their own.

    They would learn something else, or wait for each other at different steps.
    """
    own = {**to_dict(config), "plan": dataclasses.asdict(plan), "version": versions()}
    first = [own]
    if context.world_size > 1:
        dist.broadcast_object_list(first, device=context.device)
    if first[0]["data"]["fingerprint"] != config.data.fingerprint:
        raise DataError(
            f"Expected in {config.data.source} the images that rank 0 has there; rank "
            f"{context.rank} has others. Give all machines the same files."
        )
    others = differences(first[0], own, ("data.source", "data.loaders"), ("is", "here"))
    if others:
        raise ConfigError(
            f"Expected rank {context.rank} to train the run of rank 0; there {'; '.join(others)}. "
            "Give all machines the same command and packages."
        )


def told_by_rank_0(context: Context, look: Callable[[], Told]) -> Told:
    """Let rank 0 look, and return what it has found, or fail as it does, on every rank."""
    found: list[Any] = [None]
    if context.rank == 0:
        try:
            found = [look()]
        except (StorageError, OSError) as error:
            found = [error]
    if context.world_size > 1:
        dist.broadcast_object_list(found, device=context.device)
    (answer,) = found
    if isinstance(answer, StorageError | OSError):
        raise answer
    told: Told = answer
    return told
