"""Features of whole sets of images: one decode and one network pass, resumable, on any devices."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from genmetrics.checks import Images
from genmetrics.features.ordered import extract_in_order, known_images
from genmetrics.images.decoding import Processes
from genmetrics.networks.extractors import Extractor, as_extractor


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
    source, extractor = known_images(source), as_extractor(extractor)
    features = {
        name: torch.empty(len(source), dim, dtype=torch.float32)
        for name, dim in extractor.outputs.items()
    }

    def keep(rows: range, part: Mapping[str, Tensor]) -> None:
        for name, values in part.items():
            features[name][rows.start : rows.stop] = values

    extract_in_order(
        source,
        extractor,
        keep,
        batch_size=batch_size,
        cache=cache,
        workers=workers,
        devices=devices,
        progress=progress,
    )
    return features
