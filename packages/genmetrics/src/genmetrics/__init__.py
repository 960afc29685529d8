"""Metrics of generated images, honest about the number of samples.

Names are loaded on first use, so ``import genmetrics`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genmetrics.errors import (
        BadInput,
        GenmetricsError,
        NumericalFailure,
        UsageError,
        WeightsUnavailable,
    )
    from genmetrics.evaluation.compare import Difference, compare_reports, read_report
    from genmetrics.evaluation.evaluate import evaluate
    from genmetrics.evaluation.evaluator import Evaluator
    from genmetrics.evaluation.protocols import PROTOCOLS, Protocol, choose_protocol
    from genmetrics.evaluation.reconstruction import reconstruction_metrics
    from genmetrics.evaluation.reconstruction_report import PairScore, ReconstructionResult
    from genmetrics.evaluation.reference import Reference, open_reference
    from genmetrics.evaluation.report import Report, Score
    from genmetrics.features.building import extract_stats
    from genmetrics.features.extraction import extract, extract_features
    from genmetrics.features.stats import (
        GaussianStats,
        IncompatibleStats,
        StatsAccumulator,
        merge_stats,
    )
    from genmetrics.features.stats_files import load_all_stats, load_stats, save_stats
    from genmetrics.heap import keep_freed_memory
    from genmetrics.images.adm_crop import adm_center_crop
    from genmetrics.images.decoding import Processes
    from genmetrics.images.pairing import PairingError, pair_images
    from genmetrics.images.sources import ImageSource, open_images
    from genmetrics.images.writing import pack_images, prepare_images, write_npz
    from genmetrics.jacobian.density import singular_value_density, square_sum
    from genmetrics.jacobian.operators import Jacobian
    from genmetrics.jacobian.result import LogDetCheck, SpectrumResult, log_det_check
    from genmetrics.jacobian.spectrum import jacobian_spectrum
    from genmetrics.jacobian.triangular import FlowBlock
    from genmetrics.metrics.class_scores import ISResult, inception_score
    from genmetrics.metrics.frechet import (
        FrechetResult,
        frechet_distance,
        frechet_distance_from_features,
    )
    from genmetrics.metrics.frechet_error import frechet_standard_error
    from genmetrics.metrics.frechet_floor import (
        EqualCountDistance,
        frechet_at_equal_count,
        frechet_floor,
    )
    from genmetrics.metrics.frechet_infinity import FDInfinity, fd_infinity
    from genmetrics.metrics.kernel_distances import CMMDResult, KIDResult, cmmd, kid
    from genmetrics.metrics.neighbours import PRResult, precision_recall
    from genmetrics.metrics.pixel_metrics import psnr, ssim
    from genmetrics.networks.conformance import check_extractor
    from genmetrics.networks.efflite0 import efflite0_network, efflite0_normalize
    from genmetrics.networks.extractors import Extractor, get_extractor
    from genmetrics.networks.perceptual import PerceptualDistance, perceptual_distance
    from genmetrics.plots import plot_latents, plot_spectra
    from genmetrics.probes.data import ProbeData, load_probe_file
    from genmetrics.probes.knn import KNNResult, knn_accuracy
    from genmetrics.probes.label_guard import LabelLeak, require_label_free
    from genmetrics.probes.lars import LARS
    from genmetrics.probes.logistic import (
        LogisticProbe,
        TunedProbe,
        logistic_probe,
        tuned_logistic_probe,
    )
    from genmetrics.probes.presets import ProbePreset, probe_preset
    from genmetrics.probes.report import ProbeResult
    from genmetrics.probes.training import linear_probe, probe_depths
    from genmetrics.projection import project

__all__ = [
    "LARS",
    "PROTOCOLS",
    "BadInput",
    "CMMDResult",
    "Difference",
    "EqualCountDistance",
    "Evaluator",
    "Extractor",
    "FDInfinity",
    "FlowBlock",
    "FrechetResult",
    "GaussianStats",
    "GenmetricsError",
    "ISResult",
    "ImageSource",
    "IncompatibleStats",
    "Jacobian",
    "KIDResult",
    "KNNResult",
    "LabelLeak",
    "LogDetCheck",
    "LogisticProbe",
    "NumericalFailure",
    "PRResult",
    "PairScore",
    "PairingError",
    "PerceptualDistance",
    "ProbeData",
    "ProbePreset",
    "ProbeResult",
    "Processes",
    "Protocol",
    "ReconstructionResult",
    "Reference",
    "Report",
    "Score",
    "SpectrumResult",
    "StatsAccumulator",
    "TunedProbe",
    "UsageError",
    "WeightsUnavailable",
    "adm_center_crop",
    "check_extractor",
    "choose_protocol",
    "cmmd",
    "compare_reports",
    "efflite0_network",
    "efflite0_normalize",
    "evaluate",
    "extract",
    "extract_features",
    "extract_stats",
    "fd_infinity",
    "frechet_at_equal_count",
    "frechet_distance",
    "frechet_distance_from_features",
    "frechet_floor",
    "frechet_standard_error",
    "get_extractor",
    "inception_score",
    "jacobian_spectrum",
    "keep_freed_memory",
    "kid",
    "knn_accuracy",
    "linear_probe",
    "load_all_stats",
    "load_probe_file",
    "load_stats",
    "log_det_check",
    "logistic_probe",
    "merge_stats",
    "open_images",
    "open_reference",
    "pack_images",
    "pair_images",
    "perceptual_distance",
    "plot_latents",
    "plot_spectra",
    "precision_recall",
    "prepare_images",
    "probe_depths",
    "probe_preset",
    "project",
    "psnr",
    "read_report",
    "reconstruction_metrics",
    "require_label_free",
    "save_stats",
    "singular_value_density",
    "square_sum",
    "ssim",
    "tuned_logistic_probe",
    "write_npz",
]

_NAMES_OF = {  # as they are imported above
    "errors": (
        "BadInput",
        "GenmetricsError",
        "NumericalFailure",
        "UsageError",
        "WeightsUnavailable",
    ),
    "evaluation.compare": ("Difference", "compare_reports", "read_report"),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.evaluator": ("Evaluator",),
    "evaluation.protocols": ("PROTOCOLS", "Protocol", "choose_protocol"),
    "evaluation.reconstruction": ("reconstruction_metrics",),
    "evaluation.reconstruction_report": ("PairScore", "ReconstructionResult"),
    "evaluation.reference": ("Reference", "open_reference"),
    "evaluation.report": ("Report", "Score"),
    "features.building": ("extract_stats",),
    "features.extraction": ("extract", "extract_features"),
    "features.stats": ("GaussianStats", "IncompatibleStats", "StatsAccumulator", "merge_stats"),
    "features.stats_files": ("load_all_stats", "load_stats", "save_stats"),
    "heap": ("keep_freed_memory",),
    "images.adm_crop": ("adm_center_crop",),
    "images.decoding": ("Processes",),
    "images.pairing": ("PairingError", "pair_images"),
    "images.sources": ("ImageSource", "open_images"),
    "images.writing": ("pack_images", "prepare_images", "write_npz"),
    "jacobian.density": ("singular_value_density", "square_sum"),
    "jacobian.operators": ("Jacobian",),
    "jacobian.result": ("LogDetCheck", "SpectrumResult", "log_det_check"),
    "jacobian.spectrum": ("jacobian_spectrum",),
    "jacobian.triangular": ("FlowBlock",),
    "metrics.class_scores": ("ISResult", "inception_score"),
    "metrics.frechet": ("FrechetResult", "frechet_distance", "frechet_distance_from_features"),
    "metrics.frechet_error": ("frechet_standard_error",),
    "metrics.frechet_floor": ("EqualCountDistance", "frechet_at_equal_count", "frechet_floor"),
    "metrics.frechet_infinity": ("FDInfinity", "fd_infinity"),
    "metrics.kernel_distances": ("CMMDResult", "KIDResult", "cmmd", "kid"),
    "metrics.neighbours": ("PRResult", "precision_recall"),
    "metrics.pixel_metrics": ("psnr", "ssim"),
    "networks.conformance": ("check_extractor",),
    "networks.efflite0": ("efflite0_network", "efflite0_normalize"),
    "networks.extractors": ("Extractor", "get_extractor"),
    "networks.perceptual": ("PerceptualDistance", "perceptual_distance"),
    "plots": ("plot_latents", "plot_spectra"),
    "probes.data": ("ProbeData", "load_probe_file"),
    "probes.knn": ("KNNResult", "knn_accuracy"),
    "probes.label_guard": ("LabelLeak", "require_label_free"),
    "probes.lars": ("LARS",),
    "probes.logistic": ("LogisticProbe", "TunedProbe", "logistic_probe", "tuned_logistic_probe"),
    "probes.presets": ("ProbePreset", "probe_preset"),
    "probes.report": ("ProbeResult",),
    "probes.training": ("linear_probe", "probe_depths"),
    "projection": ("project",),
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
