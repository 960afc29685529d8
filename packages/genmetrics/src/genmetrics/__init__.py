"""Distances between sets of images, honest about the number of samples.

Names are loaded on first use, so ``import genmetrics`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genmetrics.efflite0 import efflite0_network, efflite0_normalize
    from genmetrics.errors import (
        BadInput,
        GenmetricsError,
        NumericalFailure,
        UsageError,
        WeightsUnavailable,
    )
    from genmetrics.evaluation import evaluate
    from genmetrics.extractors import Extractor, get_extractor
    from genmetrics.features import extract_features
    from genmetrics.floor import EqualCountDistance, frechet_at_equal_count, frechet_floor
    from genmetrics.frechet import FrechetResult, frechet_distance, frechet_distance_from_features
    from genmetrics.probe import LogisticProbe, logistic_probe
    from genmetrics.report import Report
    from genmetrics.sources import ImageSource, open_images
    from genmetrics.stats import GaussianStats, StatsAccumulator

__all__ = [
    "BadInput",
    "EqualCountDistance",
    "Extractor",
    "FrechetResult",
    "GaussianStats",
    "GenmetricsError",
    "ImageSource",
    "LogisticProbe",
    "NumericalFailure",
    "Report",
    "StatsAccumulator",
    "UsageError",
    "WeightsUnavailable",
    "efflite0_network",
    "efflite0_normalize",
    "evaluate",
    "extract_features",
    "frechet_at_equal_count",
    "frechet_distance",
    "frechet_distance_from_features",
    "frechet_floor",
    "get_extractor",
    "logistic_probe",
    "open_images",
]

_MODULE_OF = {
    "BadInput": "errors",
    "EqualCountDistance": "floor",
    "Extractor": "extractors",
    "FrechetResult": "frechet",
    "GaussianStats": "stats",
    "GenmetricsError": "errors",
    "ImageSource": "sources",
    "LogisticProbe": "probe",
    "NumericalFailure": "errors",
    "Report": "report",
    "StatsAccumulator": "stats",
    "UsageError": "errors",
    "WeightsUnavailable": "errors",
    "efflite0_network": "efflite0",
    "efflite0_normalize": "efflite0",
    "evaluate": "evaluation",
    "extract_features": "features",
    "frechet_at_equal_count": "floor",
    "frechet_distance": "frechet",
    "frechet_distance_from_features": "frechet",
    "frechet_floor": "floor",
    "get_extractor": "extractors",
    "logistic_probe": "probe",
    "open_images": "sources",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
