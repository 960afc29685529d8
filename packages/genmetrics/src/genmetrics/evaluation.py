"""Judge samples against real images: one pass over each for all metrics."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from genmetrics.extractors import Extractor
from genmetrics.feasibility import require_possible, usable_statistics
from genmetrics.features import extract
from genmetrics.inception import SHA256_PREFIX
from genmetrics.protocols import Protocol, choose_protocol
from genmetrics.reference import Reference
from genmetrics.report import ImageSet, Remark, Report, Score
from genmetrics.scoring import SCORERS, Sets
from genmetrics.sources import ImageSource

__all__ = ["evaluate"]

_ORDER = (
    "The Inception Score of the images in the file's order is {file_order:.2f}, in random order "
    "{mean:.2f}: the samples look sorted by class. Report the second."
)
_NO_LINE = (
    "{n} samples are not more than the dimensions, where distances do not fall as 1 / N: {name} is "
    "no estimate of the distance at infinitely many. Add samples, or leave fd_inf out."
)


_IGNORED = (
    "The reference's statistics of {} are of another network; distances are to its images, so this "
    "is not the score of ADM's protocol."
)
_SAME = (
    "Samples and reference are the same images: distances are 0 or nearly so whatever they show. "
    "Judge against other images."
)


def evaluate(
    samples: ImageSource,
    reference: ImageSource | Reference,
    *,
    extractor: Extractor,
    protocol: Protocol | None = None,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
    **extraction: Any,
) -> Report:
    """Score samples against real images.

    Frechet distances come with their floor: the distance between two disjoint random halves of the
    reference, with as many images as there are samples if it has twice as many; the samples'
    distance at that count is given too, since only these two numbers can be compared.

    Args:
        samples: The images to judge, at least 2.
        reference: Real images, at least 2, or their statistics.
        extractor: The feature network.
        protocol: Metrics and constants; None for the Frechet distance alone.
        seed: Seed of the random subsets.
        progress: Called after each batch with the number of images in it.
        **extraction: How features are made: batch_size, cache, workers, devices of ``extract``.

    Raises:
        BadInput: If a set is too small or an image cannot be decoded.
        UsageError: If a metric needs another network or reference.
        NumericalFailure: If features are not finite.
    """
    if not isinstance(reference, Reference):
        reference = Reference.of(reference)
    protocol = protocol or choose_protocol(None, extractor.name, metrics=("fid",))
    statistics = usable_statistics(reference, extractor)
    ignored = sorted(set(reference.statistics) - set(statistics))
    reference = replace(reference, statistics=statistics)
    require_possible(samples, reference, extractor, protocol)
    sources = [samples, *([reference.images] if reference.images is not None else [])]
    features = [extract(each, extractor, progress=progress, **extraction) for each in sources]
    real: dict[str, Tensor] = features[1] if len(features) > 1 else {}
    sets = Sets(features[0], real, reference.statistics, extractor, protocol, seed)
    scores: dict[str, Score] = {}
    for metric in protocol.metrics:
        scores |= SCORERS[metric](sets)
    remarks = [Remark("INPUT", sentence) for source in sources for sentence in source.remarks()]
    if ignored:
        remarks.append(Remark("OTHER_STATISTICS", _IGNORED.format(", ".join(ignored))))
    if reference.images is not None and samples.fingerprint() == reference.images.fingerprint():
        remarks.append(Remark("SAME_IMAGES", _SAME))
    remarks += _remarks(scores, extractor, reference)
    return Report(
        scores=scores,
        protocol=protocol,
        extractor=extractor,
        samples=ImageSet.of(samples),
        reference=reference.described,
        remarks=tuple(remarks),
    )


def _remarks(
    scores: dict[str, Score], extractor: Extractor, reference: Reference
) -> Iterator[Remark]:
    for name, score in scores.items():
        if score.details.get("rank_deficient"):
            yield from _frechet_remarks(name, score, extractor.outputs)
        if score.details.get("too_few_for_line"):
            yield Remark("TOO_FEW_FOR_LINE", _NO_LINE.format(n=score.n_samples, name=name))
        if score.details.get("order_matters"):
            values = {"file_order": score.details["file_order_mean"], "mean": score.value}
            yield Remark("CLASS_SORTED", _ORDER.format(**values))
    yield from _floor_remarks(scores, reference)
    if extractor.name == "inception" and not extractor.weights_sha256.startswith(SHA256_PREFIX):
        yield Remark(
            "OTHER_WEIGHTS",
            f"The Inception weights have sha256 {extractor.weights_sha256[:8]}..., not "
            f"{SHA256_PREFIX}...: this is not the FID of the literature.",
        )


def _frechet_remarks(name: str, score: Score, outputs: Mapping[str, int]) -> Iterator[Remark]:
    dim = outputs["spatial"] if name == "sfid" else next(iter(outputs.values()))
    fewest = min(score.n_samples, score.n_ref or score.n_samples)
    yield Remark(
        "RANK_DEFICIENT",
        f"{fewest} images are not more than the {dim} dimensions: {name} is far above its value "
        "for many images. Compare it only at the same N, and with the floor.",
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
