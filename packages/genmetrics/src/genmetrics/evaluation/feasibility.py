"""What can be scored at all, decided before any image is decoded."""

from collections.abc import Sequence

import torch

from genmetrics.errors import BadInput, UsageError
from genmetrics.evaluation.protocols import Protocol
from genmetrics.evaluation.reference import Reference
from genmetrics.evaluation.report import ImageSet
from genmetrics.features.stats import GaussianStats, require_compatible
from genmetrics.metrics.frechet_infinity import FEWEST_SAMPLES
from genmetrics.networks.extractors import Extractor

__all__ = [
    "require_enough",
    "require_network",
    "require_suitable",
    "usable_statistics",
    "used_statistics",
]

_NEED_IMAGES = ("pr", "dc", "kid", "cmmd")
_FRECHET = ("fid", "fd_inf", "sfid")
_SPATIAL = "spatial"  # the output that sFID is of; the others are of the main one


def require_suitable(reference: Reference, extractor: Extractor, protocol: Protocol) -> None:
    """Raise unless the network and the reference serve every metric of the protocol.

    Args:
        reference: What samples are judged against, with statistics of this extractor only.
        extractor: The feature network.
        protocol: The metrics.

    Raises:
        UsageError: If a metric needs another network or other statistics.
    """
    pictures = [metric for metric in protocol.metrics if metric in _NEED_IMAGES]
    if pictures and reference.images is None:
        raise UsageError(
            f"Expected a reference of images for {', '.join(pictures)}; got statistics alone. "
            "Give images, or leave these metrics out with --metrics."
        )
    require_network(extractor, protocol)
    _require_statistics(reference, extractor, protocol)


def require_network(extractor: Extractor, protocol: Protocol) -> None:
    """Raise unless the network has the outputs that the metrics of the protocol are of.

    Args:
        extractor: The feature network.
        protocol: The metrics.

    Raises:
        UsageError: If a metric needs another network.
    """
    metrics = protocol.metrics
    if "sfid" in metrics and _SPATIAL not in extractor.outputs:
        raise UsageError(
            f"Expected --extractor inception for sfid; got {extractor.name}. "
            "Leave sfid out of --metrics."
        )
    if "is" in metrics and extractor.classifier is None:
        raise UsageError(
            f"Expected an --extractor with a classifier for is; got {extractor.name}. "
            "Choose inception or efflite0, or leave is out of --metrics."
        )


def require_enough(sets: Sequence[ImageSet], protocol: Protocol) -> None:
    """Raise unless there are enough images for every metric of the protocol.

    Args:
        sets: Samples and, where there are some, real images.
        protocol: The metrics.

    Raises:
        BadInput: If a set has fewer than 2 images, or than a metric needs.
        UsageError: If a set is smaller than a subset of KID, or such a subset has one image.
    """
    for each in sets:
        if _count(each) < 2:
            raise BadInput(
                f"Expected at least 2 images in {each.path}; got {_count(each)}. Add images."
            )
    judged = {"pr": sets, "dc": sets, "fd_inf": sets[:1]}
    needed = {
        "pr": protocol.neighbours + 1,
        "dc": protocol.neighbours + 1,
        "fd_inf": FEWEST_SAMPLES,
    }
    for metric in protocol.metrics:
        for each in judged.get(metric, ()):
            if _count(each) < needed[metric]:
                raise BadInput(
                    f"Expected at least {needed[metric]} images in {each.path} for {metric}; got "
                    f"{_count(each)}. Add images, raise --limit, or leave {metric} out of "
                    "--metrics."
                )
    if "kid" in protocol.metrics:
        _require_subsets(protocol.kid_subset_size, min(map(_count, sets)))


def _count(images: ImageSet) -> int:
    return images.n or 0


def _require_subsets(size: int, fewest: int) -> None:
    if size < 2:
        raise UsageError(f"Expected --kid-subset-size of at least 2; got {size}. Try 1000.")
    if size > fewest:
        raise UsageError(
            f"Expected --kid-subset-size of at most {fewest}, the smaller set's images; got "
            f"{size}. Lower it, and compare KIDs of one subset size only."
        )


def _require_statistics(reference: Reference, extractor: Extractor, protocol: Protocol) -> None:
    if reference.images is not None:
        return
    for metric, output in _outputs_of(extractor, protocol).items():
        if output not in reference.statistics:
            raise UsageError(
                f"Expected statistics of the output {output} for {metric}; "
                f"the reference holds {', '.join(reference.statistics)}. "
                "Leave the metric out with --metrics."
            )


def usable_statistics(reference: Reference, extractor: Extractor) -> dict[str, GaussianStats]:
    """Return the reference's statistics that are of this extractor.

    Raises:
        BadInput: If there are none and no images either, or they are of another network.
    """
    usable = {name: s for name, s in reference.statistics.items() if name in extractor.outputs}
    if reference.statistics and not usable and reference.images is None:
        raise BadInput(
            f"Expected statistics of {', '.join(extractor.outputs)}, the outputs of "
            f"{extractor.name}; the reference has {', '.join(reference.statistics)}. "
            "Use the --extractor that they were made with."
        )
    for name, stats in usable.items():
        require_compatible(stats, _provenance(extractor, name))
    return usable


def used_statistics(
    reference: Reference, extractor: Extractor, protocol: Protocol
) -> list[GaussianStats]:
    """Return the reference's statistics that a metric of the protocol is computed from."""
    used = _outputs_of(extractor, protocol).values()
    return [stats for name, stats in reference.statistics.items() if name in used]


def _outputs_of(extractor: Extractor, protocol: Protocol) -> dict[str, str]:
    """Return the output of each Frechet distance in the protocol."""
    frechet = [metric for metric in protocol.metrics if metric in _FRECHET]
    return {each: _SPATIAL if each == "sfid" else extractor.main_output for each in frechet}


def _provenance(extractor: Extractor, output: str) -> GaussianStats:
    """Return statistics of nothing that say where this extractor's would be from."""
    dim = extractor.outputs[output]
    meta = extractor.provenance | {"output": output}
    zeros = torch.zeros(dim, dtype=torch.float64)
    return GaussianStats(None, zeros, zeros.expand(dim, dim), meta)
