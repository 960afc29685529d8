"""Which image comes at which position of training: a function of the seed, nothing to save."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mimflow_train.data.images import Split
from mimflow_train.draws import generator

__all__ = ["EpochOrder", "EvenClassOrder", "batches"]


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


class _Images(Dataset[tuple[int, Tensor]]):
    """The training images as torch's loader wants them."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index, self.split.images[index]


def batches(
    split: Split,
    order: EpochOrder | EvenClassOrder,
    positions: Iterable[Sequence[int]],
) -> Iterator[tuple[Int64[Tensor, " b"], Tensor]]:
    """Yield ``(indices, images)`` for each list of global sample positions.

    Args:
        split: The training images.
        order: Image at each position.
        positions: One list for each batch.
    """
    sampler = ([order[position] for position in batch] for batch in positions)
    loader = DataLoader(
        _Images(split),
        batch_sampler=sampler,
        collate_fn=_collate,
    )
    return iter(loader)


def _collate(items: list[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
    indices, images = zip(*items, strict=True)
    return torch.tensor(indices), torch.stack(images)
