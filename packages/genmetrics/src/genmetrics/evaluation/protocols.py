"""Named protocols: which network, which metrics, which constants. Imports no torch."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from genmetrics.errors import UsageError, did_you_mean

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "Protocol",
    "as_protocol",
    "choose_protocol",
    "metric_names",
]

METRICS: Mapping[str, str] = {
    "fid": "Frechet distance of the main features",
    "sfid": "Frechet distance of the spatial features, 17 x 17 x 7 of Mixed_6d (inception only)",
    "is": "Inception Score, from the network's classes (inception and efflite0)",
    "pr": "improved precision and recall",
    "dc": "density and coverage",
    "kid": "kernel distance, polynomial of degree 3",
    "fd_inf": "Frechet distance extrapolated to infinitely many samples",
    "cmmd": "maximum mean discrepancy with a Gaussian kernel, in CLIP's space",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """What makes two scores comparable, apart from the images and their number.

    Args:
        name: How reports call it.
        extractor: Name of the feature network.
        metrics: What is computed unless something else is asked for.
        neighbours: k of precision, recall, density and coverage.
        pr_precision: Arithmetic of their distances; "adm-fp16" is that of ADM's own script.
        is_chunk: Images in each chunk of the Inception Score.
        kid_subsets: Random subsets of the kernel distance.
        kid_subset_size: Images in each.
        cmmd_sigma: Width of CMMD's kernel.
        source: Whose protocol it is.
    """

    name: str
    extractor: str
    metrics: tuple[str, ...]
    neighbours: int = 3
    pr_precision: Literal["float32", "float64", "adm-fp16"] = "float32"
    is_chunk: int = 5000
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    cmmd_sigma: float = 10.0
    source: str

    def __post_init__(self) -> None:
        for metric in self.metrics:
            if metric not in METRICS:
                advice = did_you_mean(metric, METRICS) or f" There are {', '.join(METRICS)}."
                raise UsageError(f"Expected metrics that exist; got {metric!r}.{advice}")

    def with_metrics(self, metrics: str | Sequence[str] | None) -> "Protocol":
        """Return it with other metrics, names in a list or between commas; None for its own.

        Raises:
            UsageError: If there are none, or one does not exist.
        """
        if metrics is None:
            return self
        return dataclasses.replace(self, metrics=metric_names(metrics))


SCHEMA = "genmetrics/1"  # of JSON reports
PROTOCOLS: Mapping[str, Protocol] = {
    each.name: each
    for each in (
        Protocol(
            name="adm",
            extractor="inception",
            metrics=("fid", "sfid", "is", "pr"),
            source="openai/guided-diffusion evaluator.py, which the paper's tables use",
        ),
        Protocol(
            name="efflite0",
            extractor="efflite0",
            metrics=("fid", "pr"),
            source="genmetrics; needs no download, comparable with itself only",
        ),
        Protocol(
            name="dinov2",
            extractor="dinov2",
            metrics=("fid", "pr"),
            neighbours=5,
            source="FD-DINOv2 and k are layer6ai-labs/dgm-eval's; precision and recall are ours, "
            "border included and over all images",
        ),
        Protocol(
            name="cmmd",
            extractor="clip",
            metrics=("cmmd",),
            source="arXiv 2401.09603; sayakpaul/cmmd-pytorch",
        ),
    )
}


def metric_names(metrics: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of metrics, each once; in a text they stand between commas.

    Example:
        >>> metric_names("fid,pr,fid")
        ('fid', 'pr')

    Raises:
        UsageError: If there are none.
    """
    names = metrics.split(",") if isinstance(metrics, str) else metrics
    found = tuple(dict.fromkeys(name for name in names if name))
    if not found:
        raise UsageError(f"Expected at least one metric; got none. There are {', '.join(METRICS)}.")
    return found


def choose_protocol(name: str | None, extractor: str | None, **changes: Any) -> Protocol:
    """Return the protocol that was asked for by its name or by its network.

    Args:
        name: A protocol; None for the one of the network, ``adm`` if that is None too.
        extractor: A feature network; None for the protocol's.
        **changes: Fields that replace the protocol's; None leaves a field as it is.

    Raises:
        UsageError: If there is no such protocol, or it has another network.

    Example:
        >>> choose_protocol(None, "timm:resnet18").metrics
        ('fid', 'pr')
    """
    if name is not None and name not in PROTOCOLS:
        advice = did_you_mean(name, PROTOCOLS) or f" There are {', '.join(PROTOCOLS)}."
        raise UsageError(f"Expected a protocol that exists; got {name!r}.{advice}")
    if name is None:
        of_network = {each.extractor: each for each in PROTOCOLS.values()}
        own = Protocol(
            name=extractor or "adm",
            extractor=extractor or "inception",
            metrics=("fid", "pr"),
            source="genmetrics",
        )
        protocol = of_network.get(extractor or "inception", own)
    else:
        protocol = PROTOCOLS[name]
    if extractor not in (None, protocol.extractor):
        raise UsageError(
            f"Expected --extractor {protocol.extractor} with --protocol {protocol.name}; "
            f"got {extractor}. Leave one of the two out."
        )
    known = {field: value for field, value in changes.items() if value is not None}
    if "metrics" in known:
        known["metrics"] = metric_names(known["metrics"])
    return dataclasses.replace(protocol, **known)


def as_protocol(protocol: object, extractor: str) -> Protocol:
    """Return a protocol, chosen by its name or, where it is None, by its network.

    Args:
        protocol: A protocol, its name or None.
        extractor: Name of the feature network.

    Raises:
        UsageError: If it is anything else, there is no such protocol, or it has another network.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if protocol is None or isinstance(protocol, str):
        return choose_protocol(protocol, extractor)
    raise UsageError(
        f"Expected a protocol or the name of one; got a {type(protocol).__name__}. "
        f"There are {', '.join(PROTOCOLS)}."
    )
