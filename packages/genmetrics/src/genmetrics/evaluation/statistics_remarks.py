"""What to be careful about with statistics of others: how images were resized, which weights."""

from collections.abc import Iterable
from pathlib import Path

from genmetrics.evaluation.report import Remark
from genmetrics.features.stats import GaussianStats
from genmetrics.networks.inception import SHA256_PREFIX

__all__ = ["other_weights", "unknown_preprocessing"]

_AS_TENSORFLOW = "as TensorFlow 1 did, and pytorch-fid's and clean-fid's are not"


def unknown_preprocessing(
    path: Path, statistics: Iterable[GaussianStats], extractor: str, preprocess_id: object
) -> list[Remark]:
    """Return a remark if one of the statistics that are used does not say how images were resized.

    Args:
        path: Where they are from.
        statistics: Those that are used. ADM's need not say it: they are of Inception's own graph.
        extractor: Name of the feature network.
        preprocess_id: Its resizing, in words; None if it is unknown.
    """
    if all("preprocess_id" in s.meta or s.meta.get("format") == "adm" for s in statistics):
        return []
    known = "" if preprocess_id is None else f": {preprocess_id}"
    wanted = _AS_TENSORFLOW if extractor == "inception" else f"as {extractor} does{known}"
    return [
        Remark(
            "UNKNOWN_PREPROCESSING",
            f"{path} does not say how its images were resized; it is comparable only if {wanted}.",
        )
    ]


def other_weights(extractor: str, weights_sha256: str) -> list[Remark]:
    """Return a remark if a network is called Inception and has other weights than all others'."""
    if extractor != "inception" or weights_sha256.startswith(SHA256_PREFIX):
        return []
    return [
        Remark(
            "OTHER_WEIGHTS",
            f"The Inception weights have sha256 {weights_sha256[:8]}..., not "
            f"{SHA256_PREFIX}...: this is not the FID of the literature.",
        )
    ]
