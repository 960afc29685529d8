"""Judge samples against real images: one pass over each for all metrics."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from genmetrics.checks import Images
from genmetrics.evaluation.feasibility import (
    require_enough,
    require_suitable,
    usable_statistics,
    used_statistics,
)
from genmetrics.evaluation.protocols import Protocol, as_protocol
from genmetrics.evaluation.reference import Reference, open_reference
from genmetrics.evaluation.report import ImageSet, Remark, Report, Score
from genmetrics.evaluation.scoring import SCORERS, Sets
from genmetrics.evaluation.statistics_remarks import other_weights, unknown_preprocessing
from genmetrics.features.extraction import extract
from genmetrics.images.decoding import Processes
from genmetrics.images.sources import ImageSource, as_images
from genmetrics.networks.extractors import Extractor, as_extractor

__all__ = ["evaluate"]

_ORDER = (
    "The Inception Score of the images in the file's order is {file_order:.2f}, in random order "
    "{mean:.2f}: the samples look sorted by class. Report the second."
)
_SHORT_CHUNK = (
    "The last of {num_chunks} chunks has {last} samples instead of {chunk}, has a lower Inception "
    "Score for that, and counts as the others do, as ADM's evaluator has it. In one piece the "
    "samples score {single_split:.2f}. Give a multiple of {chunk} samples."
)
_NO_LINE = (
    "{name} needs {needed} samples, ten times the dimensions; there are {n}, and in their smaller "
    "subsets distances do not fall as 1 / N. The line is off by more than its noise, so it has no "
    "error. Add samples, or leave fd_inf out."
)
_IGNORED = (
    "The reference's statistics of {} are of another network; distances are to its images, so this "
    "is not the score of ADM's protocol."
)
_SAME = (
    "Samples and reference are the same images: distances are 0 or nearly so whatever they show. "
    "Judge against other images."
)


def evaluate(  # noqa: PLR0913  # what Evaluator takes, and how features are made
    samples: Images,
    reference: Images | Reference,
    *,
    extractor: Extractor | str,
    metrics: str | Sequence[str] | None = None,
    protocol: Protocol | str | None = None,
    seed: int = 0,
    batch_size: int = 64,
    cache: str | Path | None = None,
    workers: int | Processes = 4,
    devices: Sequence[str | torch.device] = (),
    progress: Callable[[int], object] | None = None,
) -> Report:
    """Score samples against real images.

    Frechet distances come with their floor: the distance between two disjoint random halves of the
    reference, with as many images as there are samples if it has twice as many; the samples'
    distance at that count is given too, since only these two numbers can be compared.

    Args:
        samples: The images to judge, at least 2, or their path, or bytes: a tensor
            ``(n, 3, h, w)`` or an array ``(n, h, w, 3)``.
        reference: Real images, at least 2, or their statistics, or the path of either, or bytes.
        extractor: The feature network, or its name.
        metrics: What to compute, names in a list or between commas; None for the protocol's.
        protocol: Metrics and constants, or their name, such as ``adm``; None for the constants of
            the network, and the Frechet distance alone.
        seed: Seed of the random subsets.
        batch_size: Images per forward pass, like the next three an argument of ``extract``.
        cache: A folder in which features are kept.
        workers: Threads or processes that decode.
        devices: Where copies of the network run side by side.
        progress: Called after each batch with the number of images in it.

    Raises:
        BadInput: If a set is too small or an image cannot be decoded.
        UsageError: If a metric or the protocol needs another network, or a metric another
            reference, or there is no such protocol.
        NumericalFailure: If features are not finite.
    """
    samples = as_images(samples)
    extractor = as_extractor(extractor)
    if protocol is None and metrics is None:
        metrics = ("fid",)
    protocol = as_protocol(protocol, extractor.name).with_metrics(metrics)
    judge = Judge.of(reference, extractor, protocol, seed)
    sources = [samples, *judge.images]
    described = [ImageSet.of(source) for source in sources]
    require_enough(described, judge.protocol)
    features = [
        extract(
            source,
            extractor,
            batch_size=batch_size,
            cache=cache,
            workers=workers,
            devices=devices,
            progress=progress,
        )
        for source in sources
    ]
    real: dict[str, Tensor] = features[1] if len(features) > 1 else {}
    return judge.report(features[0], real, described[0], samples.remarks())


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What samples are judged by, apart from features.

    Args:
        reference: Real images or their statistics, of this extractor only.
        extractor: The feature network.
        protocol: Metrics and constants.
        seed: Seed of the random subsets.
        ignored: Outputs of other networks that the reference has statistics of.
    """

    reference: Reference
    extractor: Extractor
    protocol: Protocol
    seed: int
    ignored: tuple[str, ...]

    @classmethod
    def of(
        cls,
        reference: Images | Reference,
        extractor: Extractor,
        protocol: Protocol,
        seed: int,
    ) -> "Judge":
        """Check that every metric can be computed, before any image is decoded.

        Raises:
            BadInput: If the reference's statistics are of another network.
            UsageError: If a metric needs another network or reference.
        """
        if isinstance(reference, str | Path):
            reference = open_reference(reference)
        if not isinstance(reference, Reference):
            reference = Reference.of(as_images(reference))
        usable = usable_statistics(reference, extractor)
        ignored = tuple(sorted(set(reference.statistics) - set(usable)))
        reference = replace(reference, statistics=usable)
        require_suitable(reference, extractor, protocol)
        return cls(
            reference=reference,
            extractor=extractor,
            protocol=protocol,
            seed=seed,
            ignored=ignored,
        )

    @property
    def images(self) -> list[ImageSource]:
        """The reference's images, if it has any."""
        return [] if self.reference.images is None else [self.reference.images]

    def report(
        self,
        features: Mapping[str, Tensor],
        real: Mapping[str, Tensor],
        samples: ImageSet,
        noticed: Sequence[str] = (),
    ) -> Report:
        """Score features.

        Args:
            features: Of the samples, by output.
            real: Of the reference's images; empty if there are none.
            samples: What the features are of.
            noticed: Sentences on the samples.
        """
        sets = Sets(
            features, real, self.reference.statistics, self.extractor, self.protocol, self.seed
        )
        scores: dict[str, Score] = {}
        for metric in self.protocol.metrics:
            scores |= SCORERS[metric](sets)
        reference = self.reference.described
        sentences = [*noticed, *(text for each in self.images for text in each.remarks())]
        remarks = [Remark("INPUT", sentence) for sentence in sentences]
        if self.ignored:
            remarks.append(Remark("OTHER_STATISTICS", _IGNORED.format(", ".join(self.ignored))))
        used = used_statistics(self.reference, self.extractor, self.protocol)
        named = self.extractor.name, self.extractor.preprocess_id
        remarks += unknown_preprocessing(self.reference.path, used, *named)
        same = samples.fingerprint == reference.fingerprint or _no_distance(scores)
        if same:
            remarks.append(Remark("SAME_IMAGES", _SAME))
        remarks += _remarks(scores, self.extractor, self.reference, same=same)
        return Report(
            scores=scores,
            protocol=self.protocol,
            seed=self.seed,
            extractor=self.extractor,
            samples=samples,
            reference=reference,
            remarks=tuple(remarks),
        )


def _no_distance(scores: Mapping[str, Score]) -> bool:
    """Say whether a Frechet distance is nothing beside its floor."""
    floors = ((score.value, score.details.get("floor")) for score in scores.values())
    return any(floor is not None and value < 1e-3 * floor["value"] for value, floor in floors)


def _remarks(
    scores: dict[str, Score], extractor: Extractor, reference: Reference, *, same: bool
) -> Iterator[Remark]:
    for name, score in scores.items():
        if score.details.get("rank_deficient") and not same:
            yield from _frechet_remarks(name, score, extractor.outputs)
        if score.details.get("reliable") is False:
            words = {"name": name, "n": score.n_samples, "needed": score.details["needed"]}
            yield Remark("TOO_FEW_FOR_LINE", _NO_LINE.format(**words))
        if score.details.get("order_matters"):
            values = {"file_order": score.details["file_order_mean"], "mean": score.value}
            yield Remark("CLASS_SORTED", _ORDER.format(**values))
        last = score.n_samples % score.details.get("chunk", 1)
        if score.details.get("num_chunks", 1) > 1 and last > 1:  # one alone has joined another
            yield Remark("SHORT_CHUNK", _SHORT_CHUNK.format(last=last, **score.details))
    yield from _floor_remarks(scores, reference)
    yield from other_weights(extractor.name, extractor.weights_sha256)


def _frechet_remarks(name: str, score: Score, outputs: Mapping[str, int]) -> Iterator[Remark]:
    dim = outputs["spatial"] if name.startswith("sfid") else next(iter(outputs.values()))
    fewest = min(score.n_samples, score.n_ref or score.n_samples)
    yield Remark(
        "RANK_DEFICIENT",
        f"{fewest} images are not more than the {dim} dimensions: {name} is far above its value "
        "for many images, and its error rough. Compare it only at the same N, and with the floor.",
    )


def _floor_remarks(scores: dict[str, Score], reference: Reference) -> Iterator[Remark]:
    frechet = next((each for each in scores.values() if "floor" in each.details), None)
    if frechet is None or reference.statistics:
        return
    floor = frechet.details["floor"]
    if floor is None:
        yield Remark(
            "NO_FLOOR", f"A floor needs at least 4 reference images; there are {frechet.n_ref}."
        )
    elif floor["n"] < frechet.n_samples:
        yield Remark(
            "SMALL_REFERENCE",
            f"The floor is at N = {floor['n']}, half of the reference, and not at the samples' "
            f"{frechet.n_samples}. Hold it against the score at equal N.",
        )
