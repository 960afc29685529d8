"""Features of whole sets of images: one decode and one network pass, resumable, on any devices."""

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


def extract_features(
    source: Images,
    extractor: Extractor | str,
    batch_size: int = 64,
    progress: Callable[[int], object] | None = None,
) -> Float32[Tensor, "n d"]:
    """Return the main output of all images, in their order, on the CPU: see :func:`extract`.

    Args:
        source: Images of :func:`open_images`, their path, or bytes: a tensor ``(n, 3, h, w)`` or
            an array ``(n, h, w, 3)``.
        extractor: The feature network, or its name.
        batch_size: Images per forward pass, at least 1; changes features by rounding only.
        progress: Called after each batch with the number of images in it.

    Raises:
        BadInput: If an image cannot be decoded; the message names its file. If an array or
            tensor is not of bytes.

    Example:
        >>> from genmetrics import get_extractor
        >>> images = torch.zeros(3, 3, 40, 30, dtype=torch.uint8)
        >>> extract_features(images, get_extractor("efflite0"), batch_size=2).shape
        torch.Size([3, 1280])
    """
    extractor = as_extractor(extractor)
    features = extract(source, extractor, batch_size=batch_size, progress=progress)
    return features[extractor.main_output]


def extract(  # noqa: PLR0913  # each is a choice of its own
    source: Images,
    extractor: Extractor | str,
    *,
    batch_size: int = 64,
    cache: str | Path | None = None,
    workers: int | Processes = 4,
    devices: Sequence[str | torch.device] = (),
    progress: Callable[[int], object] | None = None,
) -> dict[str, Float32[Tensor, "n _"]]:
    """Return every output of all images, in their order, on the CPU, from one pass.

    Images may differ in size: each batch is split by size, and the extractor resizes. The next
    batch is decoded while the networks work. Batches are the same whatever the number of devices,
    workers and interruptions, and so are the features, bit for bit on one kind of device.

    Args:
        source: Images of :func:`open_images`, their path, or bytes: a tensor ``(n, 3, h, w)`` or
            an array ``(n, h, w, 3)``.
        extractor: The feature network, or its name.
        batch_size: Images per forward pass, at least 1; changes features by rounding only.
        cache: A folder in which features are kept, by the network and the content of the images,
            which a folder's is taken to be if names, sizes, times of change and one picture in
            each shard of eight batches are the same; a run that was killed goes on from there.
        workers: Threads that decode, or :class:`~genmetrics.images.decoding.Processes`.
        devices: Where copies of the network run side by side, such as ``("cuda:0", "cuda:1")``;
            empty for the extractor's own device.
        progress: Called with the number of images in each batch that is done, or was cached.

    Raises:
        BadInput: If an image cannot be decoded; the message names its file. If an array or
            tensor is not of bytes.
        UsageError: If the cache cannot be written, or the network returns anything else than its
            extractor says.

    Example:
        >>> from genmetrics import get_extractor
        >>> images = torch.zeros(3, 3, 40, 30, dtype=torch.uint8)
        >>> extract(images, get_extractor("efflite0"), devices=("cpu", "cpu"))["features"].shape
        torch.Size([3, 1280])
    """
    if batch_size < 1:
        raise UsageError(f"Expected a batch size of at least 1; got {batch_size}.")
    if isinstance(source, Tensor):
        require_bytes(source)
    else:
        source = as_images(source)
    extractor = as_extractor(extractor)
    run = _Run(source, extractor, batch_size, cache, progress or (lambda count: None))
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
    return run.features


class _Run:
    """The features of one source while they are filled in, by shards of whole batches."""

    def __init__(
        self,
        source: ImageSource | Tensor,
        extractor: Extractor,
        batch_size: int,
        cache: str | Path | None,
        progress: Callable[[int], object],
    ) -> None:
        self.source = source
        self.progress = progress
        self.batch_size = batch_size
        n, shard = len(source), batch_size * BATCHES_PER_SHARD
        self.features = {
            name: torch.empty(n, dim, dtype=torch.float32)
            for name, dim in extractor.outputs.items()
        }
        # NumPy's views of the same memory, so that both are filled at once.
        self.arrays = {name: values.numpy() for name, values in self.features.items()}
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
        """Take what the cache has, and yield the images of the rest."""
        starts = [
            range(start, min(start + self.batch_size, rows.stop))
            for rows in self.shards
            if not self._restored(rows)
            for start in rows[:: self.batch_size]
        ]
        if isinstance(self.source, Tensor):
            return ((rows, self.source[rows.start : rows.stop]) for rows in starts)
        return batches_ahead(self.source, starts, workers)

    def work(self, extractor: Extractor, feed: "_Feed") -> None:
        """Fill in batches until there are no more, or until this or another thread fails."""
        try:
            for rows, batch in feed:
                images = batch if isinstance(batch, Tensor) else self._noted(rows, batch)
                with torch.no_grad():  # here, since it is a setting of this thread alone
                    for places, same_size in _by_size(images):
                        for name, values in extractor(same_size).items():
                            self.features[name][rows.start + places] = values.cpu()
                with self.lock:
                    self._finish(rows)
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

    def _finish(self, rows: range) -> None:
        shard = self.shards[rows.start // (self.batch_size * BATCHES_PER_SHARD)]
        self.to_do[shard.start] -= len(rows)
        if self.cache and self.to_do[shard.start] == 0:
            part = {name: each[shard.start : shard.stop] for name, each in self.arrays.items()}
            self.cache.save(shard, part)
        self.progress(len(rows))

    def _restored(self, rows: range) -> bool:
        found = self.cache and self.cache.load(rows, self.arrays)
        if not found or self._is_of_other_pictures(rows, found):
            return False
        for name, values in found.items():
            self.arrays[name][rows.start : rows.stop] = values
        self.num_restored += len(rows)
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
