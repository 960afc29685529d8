"""A block in the order in which it decodes, where its Jacobian is lower triangular."""

from typing import cast

from jaxtyping import Float, Int
from torch import Tensor

from tarflow_prior.block import Block
from tarflow_prior.flow import TarFlow


class TriangularBlock:
    """A block between its own order of tokens and noise in the same.

    The flow is ``x <- unpermute(block(permute(x)))``, block by block: what
    ``genmetrics.jacobian_spectrum`` solves by substitution.

    Args:
        block: The block, which speaks the order of the latents.
        label: Class of each sample; None is the null class.
    """

    def __init__(self, block: Block, label: Int[Tensor, " b"] | None = None) -> None:
        self.block, self.label = block, label
        self.permute = self.unpermute = block.in_decoding_order

    def __call__(self, x: Float[Tensor, "b k d"]) -> Float[Tensor, "b k d"]:
        """Map tokens in the block's order to noise in that order."""
        u: Tensor = self.permute(self.block(self.permute(x), self.label).u)
        return u

    def log_scale(self, x: Float[Tensor, "b k d"]) -> Float[Tensor, "b k d"]:
        """Return the log of each entry's standard deviation, 0 at the first token."""
        log_scale: Tensor = self.permute(self.block.standardize(self.permute(x), self.label)[1])
        return log_scale


def triangular_blocks(
    flow: TarFlow, label: Int[Tensor, " b"] | None = None
) -> list[TriangularBlock]:
    """Return the blocks of a flow in forward order, each in the order in which it decodes.

    Args:
        flow: The flow.
        label: Class of each sample; None is the null class.
    """
    label = None if label is None else label.to(flow.device)
    return [TriangularBlock(cast(Block, block), label) for block in flow.blocks]
