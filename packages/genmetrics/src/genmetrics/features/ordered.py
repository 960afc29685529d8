"""One pass of a network over a set of images, resumable, handed over in order and not kept."""

import copy
import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from genmetrics.checks import Images, require_bytes
from genmetrics.errors import UsageError
from genmetrics.features.cache import FeatureCache
from genmetrics.full_precision import full_float32
from genmetrics.images.contents import Contents, digest
from genmetrics.images.decoding import Decoded, Processes, batches_ahead
from genmetrics.images.sources import ImageSource, PictureSet, as_images
from genmetrics.networks.extractors import Extractor, as_extractor
from genmetrics.networks.own_networks import OwnFeatures

BATCHES_PER_SHARD = 8
# Beside the outputs in a shard.
_DIGESTS, _PLAIN, _NOTICED = "image/digest", "image/plain", "image/noticed"
_Batch = tuple[range, Sequence[Decoded] | Tensor]
_log = logging.getLogger(__name__)


def extract_in_order(  # noqa: PLR0913  # as extract
    source: Images,
    extractor: Extractor | str,
    take: Callable[[range, Mapping[str, Float32[Tensor, "b _"]]], object],
    *,
    batch_size: int = 64,
    cache: str | Path | None = None,
    workers: int | Processes = 4,
    devices: Sequence[str | torch.device] = (),
    progress: Callable[[int], object] | None = None,
) -> None:
    """Hand over every output of eight batches after eight, in their order, and keep none.

    What is complete before its turn waits for it: with several devices some batches, with a cache
    all that it has behind what it lacks.

    Args:
        source: Images, as for :func:`~genmetrics.extract`, as are the other arguments.
        extractor: The feature network, or its name.
        take: Called with the places of images and their outputs; never by two threads at once.
        batch_size: Images per forward pass.
        cache: A folder in which features are kept.
        workers: Threads that decode, or processes.
        devices: Where copies of the network run side by side.
        progress: Called with the number of images in each batch that is done, or was cached.

    Raises:
        BadInput: As :func:`~genmetrics.extract`.
        UsageError: As :func:`~genmetrics.extract`.
    """
    if batch_size < 1:
        raise UsageError(f"Expected a batch size of at least 1; got {batch_size}.")
    source, extractor = known_images(source), as_extractor(extractor)
    run = _Run(source, extractor, batch_size, cache, take, progress or (lambda count: None))
    feed = _Feed(run.missing_batches(workers))
    replicas = _replicas(extractor, devices)
    with full_float32(extractor.device):
        if len(replicas) == 1:
            run.work(replicas[0], feed)
        else:
            with ThreadPoolExecutor(len(replicas)) as pool:
                try:
                    for done in [pool.submit(run.work, each, feed) for each in replicas]:
                        done.result()
                finally:
                    feed.stop()
    run.report()


def known_images(source: Images) -> ImageSource | Tensor:
    """Return images of which size and content can be asked.

    Args:
        source: Images, as for :func:`~genmetrics.extract`.
    """
    if not isinstance(source, Tensor):
        return as_images(source)
    require_bytes(source)
    return source


class _Run:
    """The features of one source while they are computed, by shards of whole batches."""

    def __init__(
        self,
        source: ImageSource | Tensor,
        extractor: Extractor,
        batch_size: int,
        cache: str | Path | None,
        take: Callable[[range, Mapping[str, Tensor]], object],
        progress: Callable[[int], object],
    ) -> None:
        self.source = source
        self.take = take
        self.progress = progress
        self.batch_size = batch_size
        n, shard = len(source), batch_size * BATCHES_PER_SHARD
        self.outputs = dict(extractor.outputs)
        self.parts: dict[int, dict[str, Tensor]] = {}  # by shard, until they are handed over
        self.num_taken = 0  # shards
        self.arrays: dict[str, np.ndarray] = {}  # of all images; small
        if not isinstance(source, Tensor):
            self.arrays |= {_DIGESTS: np.zeros(n, np.uint64), _PLAIN: np.zeros(n, np.bool_)}
        if isinstance(source, PictureSet):
            self.arrays[_NOTICED] = source.noticed
        self.num_restored = 0
        self.shards = [range(start, min(start + shard, n)) for start in range(0, n, shard)]
        self.to_do = {rows.start: len(rows) for rows in self.shards}
        self.lock = Lock()
        self.cache = cache and FeatureCache(Path(cache), _key(source, extractor, batch_size))

    def missing_batches(self, workers: int | Processes) -> Iterator[_Batch]:
        """Take what the cache has as its turn comes, and yield the images of the rest."""
        starts = (
            range(start, min(start + self.batch_size, rows.stop))
            for rows in self.shards
            if not self._restored(rows)
            for start in rows[:: self.batch_size]
        )
        if isinstance(self.source, Tensor):
            return ((rows, self.source[rows.start : rows.stop]) for rows in starts)
        return batches_ahead(self.source, starts, workers)

    def work(self, extractor: Extractor, feed: "_Feed") -> None:
        """Fill in batches until there are no more, or until this or another thread fails."""
        try:
            for rows, batch in feed:
                images = batch if isinstance(batch, Tensor) else self._noted(rows, batch)
                shard, part = self._part(rows)
                with torch.no_grad():  # here, since it is a setting of this thread alone
                    for places, same_size in _by_size(images):
                        for name, values in extractor(same_size).items():
                            part[name][rows.start - shard.start + places] = values.cpu()
                with self.lock:
                    self._finish(rows, shard, part)
        finally:
            feed.stop()

    def report(self) -> None:
        """Say what came from the cache, and leave the digests with the images."""
        n = len(self.source)
        if self.cache:
            computed = n - self.num_restored
            _log.info("%d of %d images from the cache, %d computed", self.num_restored, n, computed)
        if not isinstance(self.source, Tensor):
            self.source.contents = Contents(self.arrays[_DIGESTS], self.arrays[_PLAIN])

    def _noted(self, rows: range, batch: Sequence[Decoded]) -> list[np.ndarray]:
        self.arrays[_DIGESTS][rows.start : rows.stop] = [image.digest for image in batch]
        self.arrays[_PLAIN][rows.start : rows.stop] = [image.plain for image in batch]
        if _NOTICED in self.arrays:  # a process of its own has noticed it in a copy of the source
            self.arrays[_NOTICED][rows.start : rows.stop] = [image.noticed for image in batch]
        return [image.pixels for image in batch]

    def _part(self, rows: range) -> tuple[range, dict[str, Tensor]]:
        """Return the shard of a batch, and its outputs, to be filled in."""
        shard = self.shards[rows.start // (self.batch_size * BATCHES_PER_SHARD)]
        with self.lock:
            if shard.start not in self.parts:
                outputs = self.outputs.items()
                self.parts[shard.start] = {
                    name: torch.empty(len(shard), d, dtype=torch.float32) for name, d in outputs
                }
            return shard, self.parts[shard.start]

    def _finish(self, rows: range, shard: range, part: Mapping[str, Tensor]) -> None:
        self.to_do[shard.start] -= len(rows)
        if self.to_do[shard.start] == 0:
            if self.cache:
                small = {key: each[shard.start : shard.stop] for key, each in self.arrays.items()}
                self.cache.save(shard, small | {name: each.numpy() for name, each in part.items()})
            self._hand_over()
        self.progress(len(rows))

    def _hand_over(self) -> None:
        """Give away what is complete, up to the first shard that is not."""
        for shard in self.shards[self.num_taken :]:
            if self.to_do[shard.start]:
                return
            self.take(shard, self.parts.pop(shard.start))
            self.num_taken += 1

    def _restored(self, rows: range) -> bool:
        like = {name: np.empty((0, dim), np.float32) for name, dim in self.outputs.items()}
        found = self.cache and self.cache.load(rows, self.arrays | like)
        if not found or self._is_of_other_pictures(rows, found):
            return False
        for name in self.arrays:
            self.arrays[name][rows.start : rows.stop] = found[name]
        with self.lock:
            self.parts[rows.start] = {name: torch.from_numpy(found[name]) for name in like}
            self.to_do[rows.start] = 0
            self.num_restored += len(rows)
            self._hand_over()
            self.progress(len(rows))
        return True

    def _is_of_other_pictures(self, rows: range, found: Mapping[str, np.ndarray]) -> bool:
        """Say whether the first picture is another: files may share name, size and time."""
        if not isinstance(self.source, PictureSet) or self.source.kind != "folder":
            return False  # the fingerprint is of their bytes, or of their CRC-32s
        return digest(self.source.read(rows.start)) != int(found[_DIGESTS][0])


def _key(source: ImageSource | Tensor, extractor: Extractor, batch_size: int) -> dict[str, object]:
    if isinstance(source, Tensor):
        images = hashlib.sha256(source.contiguous().cpu().numpy().tobytes())
        fingerprint = f"tensor {tuple(source.shape)} {images.hexdigest()}"
    else:
        fingerprint = source.fingerprint()
    how: dict[str, object] = {}
    if isinstance(source, PictureSet):
        how |= {"allow_16bit": source.allow_16bit, "noticed": source.noticed.dtype.names}
    if isinstance(extractor.network, OwnFeatures):
        how["tried"] = extractor.network.tried_sha256
    return {
        **how,
        "images": fingerprint,
        "n": len(source),
        **extractor.provenance,
        "outputs": dict(extractor.outputs),
        "batch_size": batch_size,
    }


def _replicas(extractor: Extractor, devices: Sequence[str | torch.device]) -> list[Extractor]:
    """Return the extractor, or one copy per device."""
    return [
        replace(
            extractor,
            network=copy.deepcopy(extractor.network).to(device),
            device=torch.device(device),
        )
        for device in devices
    ] or [extractor]


class _Feed(Iterator[_Batch]):
    """Batches that several threads may take, until one of them stops it."""

    def __init__(self, batches: Iterator[_Batch]) -> None:
        self.batches = batches
        self.lock = Lock()

    def __next__(self) -> _Batch:
        with self.lock:
            return next(self.batches)

    def stop(self) -> None:
        with self.lock:
            self.batches = iter(())


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
