"""Samples judged as they are made, as in a training loop: no files, one network pass each."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genmetrics.checks import HeldBytes, Images
from genmetrics.errors import UsageError
from genmetrics.evaluation.evaluate import Judge
from genmetrics.evaluation.feasibility import require_enough
from genmetrics.evaluation.protocols import Protocol, as_protocol
from genmetrics.evaluation.reference import Reference
from genmetrics.evaluation.report import ImageSet, Report
from genmetrics.features.extraction import extract
from genmetrics.images.contents import Contents, content_remarks
from genmetrics.images.held import HeldImages, held_images, of_image
from genmetrics.images.sources import ImageSource
from genmetrics.networks.extractors import Extractor, as_extractor

__all__ = ["Evaluator"]


class Evaluator:
    """Scores of images that arrive in pieces: the numbers of :func:`genmetrics.evaluate`.

    The real images pass the network once, when the first result is asked for, and serve every
    later one. Samples are kept as features; at most a batch of them waits as images.

    Args:
        reference: Real images, or their statistics, or the path of either, or bytes: a tensor
            ``(n, 3, h, w)`` or an array ``(n, h, w, 3)``, which must not change before the first
            result.
        extractor: The feature network, or its name.
        metrics: What to compute, names in a list or between commas; None for the protocol's.
        protocol: Metrics and constants, or their name, such as ``adm``; None for those of the
            network.
        seed: Seed of the random subsets.
        batch_size: Images per forward pass. Results are bit for bit those of ``evaluate`` with
            the same one, however the images come.
        cache: A folder in which the features of the real images are kept.

    Raises:
        UsageError: If a metric or the protocol needs another network, or a metric another
            reference, or there is no such protocol, or the batch size is below 1.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for i in range(4):
        ...         Image.new("RGB", (8, 8), (50 * i, 0, 0)).save(f"{folder}/{i}.png")
        ...     evaluator = Evaluator(folder, extractor="efflite0")
        ...     for _ in range(3):
        ...         evaluator.update(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
        ...     report = evaluator.result()
        >>> report["fd_efflite0"].n_samples
        6
    """

    def __init__(  # noqa: PLR0913  # what evaluate takes, and the cache of the reference
        self,
        reference: Images | Reference,
        *,
        extractor: Extractor | str,
        metrics: str | Sequence[str] | None = None,
        protocol: Protocol | str | None = None,
        seed: int = 0,
        batch_size: int = 64,
        cache: str | Path | None = None,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"Expected a batch size of at least 1; got {batch_size}.")
        extractor = as_extractor(extractor)
        protocol = as_protocol(protocol, extractor.name).with_metrics(metrics)
        self._judge = Judge.of(reference, extractor, protocol, seed)
        self._batch_size = batch_size
        self._cache = cache
        self._real: dict[str, Tensor] | None = None
        self.reset()

    def __len__(self) -> int:
        """Return the number of images since the beginning or the last reset."""
        return self._num_images

    def reset(self) -> None:
        """Forget the samples, and keep the reference."""
        self._num_images = 0
        self._waiting: list[np.ndarray] = []
        self._features: list[dict[str, Tensor]] = []
        self._contents: list[Contents] = []
        self._digest = hashlib.sha256()

    def update(self, images: HeldBytes) -> None:
        """Take samples; whole batches pass the network at once.

        Args:
            images: RGB bytes, a tensor ``(b, 3, h, w)`` on any device or an array ``(b, h, w, 3)``.
                Round to bytes yourself; no range is guessed.

        Raises:
            BadInput: If they are anything else.
        """
        held = held_images(images)
        self._num_images += len(held)
        for index in range(len(held)):
            image = held.read(index).copy()  # the caller's array may be filled anew
            self._digest.update(of_image(image))
            self._waiting.append(image)
            if len(self._waiting) == self._batch_size:
                features, contents = self._extract_held()
                self._features.append(features)
                self._contents.append(contents)
                self._waiting = []

    def result(self) -> Report:
        """Score all images so far; more may follow.

        Raises:
            BadInput: If there are fewer than 2, or than a metric needs.
            UsageError: If there are fewer than a subset of KID has.
            NumericalFailure: If features are not finite.
        """
        samples = ImageSet(Path("-"), "stream", self._num_images, self._digest.hexdigest())
        judge = self._judge
        require_enough([samples, *map(ImageSet.of, judge.images)], judge.protocol)
        if self._real is None:
            self._real = self._extract(judge.images[0], self._cache) if judge.images else {}
        parts, contents = list(self._features), list(self._contents)
        if self._waiting:
            last = self._extract_held()
            parts.append(last[0])
            contents.append(last[1])
        features = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return judge.report(features, self._real, samples, _noticed(contents))

    def _extract_held(self) -> tuple[dict[str, Tensor], Contents]:
        """Return the features of the images that wait, and what is known of their pixels."""
        held = HeldImages(self._waiting)
        features = self._extract(held)
        assert held.contents is not None  # extract leaves them there
        return features, held.contents

    def _extract(self, images: ImageSource, cache: str | Path | None = None) -> dict[str, Tensor]:
        extractor = self._judge.extractor
        return extract(images, extractor, batch_size=self._batch_size, cache=cache)


def _noticed(parts: Sequence[Contents]) -> list[str]:
    """Return sentences on copies and plain colours among all samples, by their places."""
    digests, plain = (np.concatenate(each) for each in zip(*parts, strict=True))
    names = [str(place) for place in range(len(digests))]
    return content_remarks(Contents(digests, plain), names, Path("the stream"))
