"""What the flow refuses to return in silence."""

import torch
from torch import Tensor

from tarflow_prior.block import Block


class NonFiniteError(ArithmeticError):
    """Samples that overflowed while they were decoded; the others are kept in ``z``.

    Args:
        message: One sentence.
        z: All samples ``(b, k, d)``; the rows outside ``samples`` are good.
        samples: Rows that are not finite.
    """

    def __init__(self, message: str, z: Tensor, samples: list[int]) -> None:
        super().__init__(message)
        self.z = z
        self.samples = samples

    def __reduce__(self) -> tuple[type, tuple[str, Tensor, list[int]]]:
        """Pickle with samples and tensor, so that it crosses processes."""
        return type(self), (str(self), self.z, self.samples)

    @classmethod
    def found(
        cls, z: Tensor, states: list[Tensor], start: int, blocks: list[Block]
    ) -> "NonFiniteError":
        """Name sample, block and token where the first of them went wrong.

        Args:
            z: All samples.
            states: Of those decoded with the first bad one, the noise, then the tokens after each
                block, in decoding order.
            start: Row of ``z`` of the first of these.
            blocks: The blocks in forward order.
        """
        bad = (~z.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
        count = f"{len(bad)} of {len(z)} samples"
        first = bad[0]
        finite = torch.stack([state[first - start].isfinite().all(-1) for state in states])
        stage = int((~finite.all(-1)).nonzero()[0])
        if stage == 0:
            where, cure = "the noise itself", "Check the noise."
        else:
            index = len(blocks) - stage
            by_rank = finite[stage].flip(0) if blocks[index].flipped else finite[stage]
            rank = int((~by_rank).nonzero()[0])
            token = len(by_rank) - 1 - rank if blocks[index].flipped else rank
            where = f"block {index}, token {token}, decoded as number {rank}"
            names = [
                f"blocks.{number}.{name}"
                for number, block in enumerate(blocks)
                for name, weight in block.named_parameters()
                if not weight.isfinite().all()
            ]
            cure = "Lower temperature or guidance, or set log_scale_bound."
            if names:
                cure = f"The weight {names[0]} has non-finite entries; load a sound checkpoint."
        return cls(
            f"Expected finite samples; got {count} non-finite, the first of them sample {first} "
            f"(from {where}). {cure} The rest is in the attribute z of this error.",
            z,
            bad,
        )
