"""Cheap looks at the whole spectrum, from random vectors."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from genmetrics.errors import BadInput
from genmetrics.jacobian.lanczos import Bidiagonalisation
from genmetrics.jacobian.operators import LinearMap, random_start


class SquareSum(NamedTuple):
    """The sum of the squared singular values of each sample, by Hutchinson's estimator.

    Args:
        mean: The estimate, without bias.
        standard_error: Of the mean, from the spread over the probes.
    """

    mean: Float[Tensor, " b"]
    standard_error: Float[Tensor, " b"]


def square_sum(
    jacobian: LinearMap, like: Float[Tensor, "b d"], *, num_probes: int = 16, seed: int = 0
) -> SquareSum:
    """Return the mean of ``|J v|^2`` over standard normal v, which is ``sum sigma^2``.

    Args:
        jacobian: The matrices.
        like: Gives batch, dimensions, dtype and device.
        num_probes: Products to spend, at least 2.
        seed: Seed of the vectors.

    Raises:
        BadInput: If there are fewer than 2 probes.
    """
    if num_probes < 2:
        raise BadInput(f"Expected at least 2 probes; got {num_probes}. Take 16.")
    generator = torch.Generator().manual_seed(seed)
    energies = []
    for _ in range(num_probes):
        v = torch.randn(like.shape[1], generator=generator, dtype=torch.float64)
        moved = jacobian.push(v.to(like).expand_as(like).contiguous())
        energies.append(moved.square().sum(dim=1))
    stacked = torch.stack(energies)
    return SquareSum(stacked.mean(dim=0), stacked.std(dim=0) / num_probes**0.5)


class Quadrature(NamedTuple):
    """A discrete stand-in for the distribution of the singular values of each sample.

    Args:
        nodes: Singular values of the small matrices.
        weights: Share of the spectrum that each stands for; they sum to 1.
    """

    nodes: Float[Tensor, "b m"]
    weights: Float[Tensor, "b m"]


def singular_value_density(
    jacobian: LinearMap,
    like: Float[Tensor, "b d"],
    *,
    num_probes: int = 4,
    num_steps: int = 10,
    seed: int = 0,
) -> Quadrature:
    """Estimate the distribution of the singular values by stochastic Lanczos quadrature.

    For each random start, k steps of bidiagonalisation give the Gauss rule of ``J^T J`` for that
    vector: ``sum_i weights_i g(nodes_i)`` is ``v^T g((J^T J)^(1/2)) v`` for every g that is a
    polynomial of degree below 2k in the square; the mean over starts estimates
    ``mean_i g(sigma_i)``.

    Args:
        jacobian: The matrices.
        like: Gives batch, dimensions, dtype and device.
        num_probes: Random starts.
        num_steps: Steps from each, two products apiece; at most d.
        seed: Seed of the first start.
    """
    nodes, weights = [], []
    for probe in range(num_probes):
        space = Bidiagonalisation(jacobian, random_start(like, seed + probe))
        for _ in range(min(num_steps, like.shape[1])):
            space.step()
        _, values, right = torch.linalg.svd(space.matrix)
        nodes.append(values)
        weights.append(right[:, :, 0].square() / num_probes)
    return Quadrature(torch.cat(nodes, dim=1), torch.cat(weights, dim=1))
