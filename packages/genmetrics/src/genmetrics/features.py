"""Features of whole sets of images, read ahead of the network."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from genmetrics.extractors import Extractor
from genmetrics.sources import ImageSource

_READERS = 4


def extract_features(
    source: ImageSource | UInt8[Tensor, "n 3 h w"],
    extractor: Extractor,
    batch_size: int = 64,
    progress: Callable[[int], object] | None = None,
) -> Float32[Tensor, "n d"]:
    """Return the features of all images, in their order, on the CPU.

    Images may differ in size: each batch is split by size, and the extractor resizes. A few
    threads decode the next batch while the network works on this one.

    Args:
        source: Images of :func:`open_images`, or a tensor of them.
        extractor: The feature network.
        batch_size: Images per forward pass, at least 1; changes features by rounding only.
        progress: Called after each batch with the number of images in it.

    Raises:
        BadInput: If an image cannot be decoded; the message names its file.

    Example:
        >>> from genmetrics import get_extractor
        >>> images = torch.zeros(3, 3, 40, 30, dtype=torch.uint8)
        >>> extract_features(images, get_extractor("efflite0"), batch_size=2).shape
        torch.Size([3, 1280])
    """
    features = torch.empty(len(source), extractor.dim)
    start = 0
    for batch in _batches(source, batch_size):
        for rows, images in _by_size(batch):
            features[start + rows] = extractor(images).cpu()
        start += len(batch)
        if progress is not None:
            progress(len(batch))
    return features


def _batches(
    source: ImageSource | Tensor, batch_size: int
) -> Iterator[Sequence[np.ndarray] | Tensor]:
    """Yield the images batch by batch, the next one being decoded meanwhile."""
    starts = range(0, len(source), batch_size)
    if isinstance(source, Tensor):
        yield from (source[start : start + batch_size] for start in starts)
        return
    with ThreadPoolExecutor(_READERS) as readers:

        def submit(start: int) -> Iterator[np.ndarray]:
            return readers.map(source.read, range(start, min(start + batch_size, len(source))))

        ahead = submit(0)
        for start in starts:
            batch, ahead = list(ahead), submit(start + batch_size)
            yield batch


def _by_size(
    batch: Sequence[np.ndarray] | Tensor,
) -> Iterator[tuple[Tensor, UInt8[Tensor, "b 3 h w"]]]:
    """Yield the rows and the images of each size in a batch."""
    if isinstance(batch, Tensor):
        yield torch.arange(len(batch)), batch
        return
    rows_of: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, image in enumerate(batch):
        rows_of[image.shape].append(row)
    for rows in rows_of.values():
        images = torch.from_numpy(np.stack([batch[row] for row in rows]))
        yield torch.tensor(rows), images.movedim(-1, 1)
