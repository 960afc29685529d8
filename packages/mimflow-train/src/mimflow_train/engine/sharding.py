"""Weights that are sharded over the workers (FSDP2), and how they come together again."""

import warnings

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mimflow_train.config import TrainConfig
from mimflow_train.model import MIMFlow

__all__ = ["is_sharded", "part_of", "placed_like", "shard", "shards_weights", "whole"]


def shards_weights(config: TrainConfig, workers: int) -> bool:
    """Return whether so many workers shard the weights in the joint phase."""
    return config.shard and workers > 1


def shard(model: MIMFlow, device: torch.device) -> None:
    """Leave each worker its part of every weight, in place; names stay, parameters are new ones.

    A layer's weights are together while it computes; those that belong to no layer from the
    beginning of the forward pass to the end of the backward pass.

    Args:
        model: The same on every worker; all of them call this. From the host's memory it moves a
            layer at a time, so that the device never holds the whole.
        device: Where this worker computes.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    # It warns of changes in place to what the model returns; there are none.
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module .* returned a view tensor")


def is_sharded(module: nn.Module) -> bool:
    """Return whether a worker has only parts of a module's weights."""
    return any(isinstance(each, DTensor) for each in module.parameters())


def placed_like(value: Tensor, parameter: Tensor) -> Tensor:
    """Return a tensor where a parameter of its shape is: on its device, and sharded as it is.

    Args:
        value: The same on every worker.
        parameter: Says where to.
    """
    value = value.to(parameter.device)
    if isinstance(parameter, DTensor):
        mesh, placements = parameter.device_mesh, parameter.placements
        return distribute_tensor(value, mesh, placements, src_data_rank=None)
    return value


def part_of(value: Tensor) -> Tensor:
    """Return what this worker has of a tensor, which may be sharded."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(value: Tensor) -> Tensor:
    """Return a tensor with all its parts; all workers call this where it is sharded."""
    return value.full_tensor() if isinstance(value, DTensor) else value
