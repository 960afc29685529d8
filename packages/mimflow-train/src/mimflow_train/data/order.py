"""Which image comes at which position of training: a function of the seed, nothing to save."""

import torch
from jaxtyping import Int64
from torch import Tensor

from mimflow_train.draws import generator

__all__ = ["EpochOrder", "EvenClassOrder", "image_order"]


class EpochOrder:
    """Every image once per epoch, in a new order each epoch.

    Args:
        num_images: Size of the training set.
        seed: Seed of the order.
    """

    def __init__(self, num_images: int, seed: int) -> None:
        self.num_images, self.seed = num_images, seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __getitem__(self, position: int) -> int:
        """Return the image at a global sample position."""
        epoch, rank = divmod(position, self.num_images)
        if epoch != self._epoch:
            draw = generator(self.seed, "epoch order", epoch)
            self._epoch, self._order = epoch, torch.randperm(self.num_images, generator=draw)
        return int(self._order[rank])


class EvenClassOrder:
    """Every class once per round, every image of a class once before any comes again.

    Args:
        labels: Class of each image.
        seed: Seed of the order.
    """

    def __init__(self, labels: Int64[Tensor, " m"], seed: int) -> None:
        self.seed = seed
        self._members = [torch.nonzero(labels == c).flatten() for c in labels.unique()]
        self._orders: dict[tuple[str, int], tuple[int, Tensor]] = {}

    def __getitem__(self, position: int) -> int:
        """Return the image at a global sample position."""
        cycle, rank = divmod(position, len(self._members))
        which = int(self._permutation("class order", -1, cycle, len(self._members))[rank])
        members = self._members[which]
        pass_number, rank = divmod(cycle, len(members))
        return int(
            members[self._permutation("order in class", which, pass_number, len(members))[rank]]
        )

    def _permutation(self, stream: str, which: int, number: int, length: int) -> Tensor:
        """Return permutation ``number`` of a stream, remembering the latest."""
        latest = self._orders.get((stream, which))
        if latest is None or latest[0] != number:
            draw = generator(self.seed, f"{stream} {which}", number)
            latest = (number, torch.randperm(length, generator=draw))
            self._orders[stream, which] = latest
        return latest[1]


def image_order(
    labels: Int64[Tensor, " m"], seed: int, *, even_classes: bool
) -> EpochOrder | EvenClassOrder:
    """Return the order in which images are trained on.

    Args:
        labels: Class of each image.
        seed: Seed of the order.
        even_classes: Whether classes come evenly instead of images.
    """
    return EvenClassOrder(labels, seed) if even_classes else EpochOrder(len(labels), seed)
