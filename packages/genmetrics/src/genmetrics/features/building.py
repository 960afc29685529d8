"""Statistics of whole sets of images, of whose features no more than some thousands are held."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from genmetrics.checks import Images, not_finite, refuse_rows
from genmetrics.features.ordered import extract_in_order
from genmetrics.features.stats import ROWS_PER_UPDATE, GaussianStats, StatsAccumulator
from genmetrics.images.decoding import Processes
from genmetrics.networks.extractors import Extractor, as_extractor


def extract_stats(  # noqa: PLR0913  # as extract
    source: Images,
    extractor: Extractor | str,
    *,
    exact: bool = False,
    batch_size: int = 64,
    cache: str | Path | None = None,
    workers: int | Processes = 4,
    devices: Sequence[str | torch.device] = (),
    progress: Callable[[int], object] | None = None,
) -> dict[str, GaussianStats]:
    """Return mean and covariance of every output, from one pass, in memory that does not grow.

    They are those of :func:`extract` and :class:`StatsAccumulator`, bit for bit. Only what a cache
    has behind images that it lacks is read ahead, and held until these are done.

    Args:
        source: Images, as for :func:`extract`.
        extractor: The feature network, or its name.
        exact: Whether to sum on a grid, as for :class:`StatsAccumulator`.
        batch_size: Images per forward pass, at least 1; changes features by rounding only.
        cache: A folder in which features are kept, as for :func:`extract`.
        workers: Threads that decode, or :class:`~genmetrics.images.decoding.Processes`.
        devices: Where copies of the network run side by side.
        progress: Called with the number of images in each batch that is done, or was cached.

    Raises:
        BadInput: As :func:`extract`, or if there are fewer than two images.
        NumericalFailure: If a feature is not finite.
        UsageError: As :func:`extract`.

    Example:
        >>> images = torch.zeros(3, 3, 40, 30, dtype=torch.uint8)
        >>> extract_stats(images, "efflite0")["features"].n
        3
    """
    extractor = as_extractor(extractor)
    sums = {name: _Sums(dim, exact=exact) for name, dim in extractor.outputs.items()}

    def take(rows: range, part: Mapping[str, Tensor]) -> None:
        for name, features in part.items():
            sums[name].add(rows.start, features)

    extract_in_order(
        source,
        extractor,
        take,
        batch_size=batch_size,
        cache=cache,
        workers=workers,
        devices=devices,
        progress=progress,
    )
    return {name: each.finalize() for name, each in sums.items()}


class _Sums:
    """Sums of one output, which are given as many rows at a time as if all had come at once."""

    def __init__(self, dim: int, *, exact: bool) -> None:
        self.accumulator = StatsAccumulator(dim, exact=exact)
        self.waiting = torch.empty(0, dim, dtype=torch.float32)
        self.bad: list[int] = []
        self.n = 0

    def add(self, start: int, features: Tensor) -> None:
        self.n += len(features)
        self.bad += [start + row for row in not_finite(features)]
        if self.bad:
            return  # the features are still computed, and kept where there is a cache
        self.waiting = torch.cat([self.waiting, features])
        whole = len(self.waiting) // ROWS_PER_UPDATE * ROWS_PER_UPDATE
        if whole:
            self.accumulator.update(self.waiting[:whole])
            self.waiting = self.waiting[whole:].clone()

    def finalize(self) -> GaussianStats:
        refuse_rows(self.bad, self.n, "features")
        return self.accumulator.update(self.waiting).finalize()
