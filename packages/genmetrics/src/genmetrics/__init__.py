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
    from genmetrics.features.extraction import extract, extract_features
    from genmetrics.features.stats import (
        GaussianStats,
        IncompatibleStats,
        StatsAccumulator,
        merge_stats,
    )
    from genmetrics.features.stats_files import load_all_stats, load_stats, save_stats
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
    "fd_infinity",
    "frechet_at_equal_count",
    "frechet_distance",
    "frechet_distance_from_features",
    "frechet_floor",
    "frechet_standard_error",
    "get_extractor",
    "inception_score",
    "jacobian_spectrum",
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

_MODULE_OF = {
    "BadInput": "errors",
    "CMMDResult": "metrics.kernel_distances",
    "Difference": "evaluation.compare",
    "EqualCountDistance": "metrics.frechet_floor",
    "Evaluator": "evaluation.evaluator",
    "Extractor": "networks.extractors",
    "FDInfinity": "metrics.frechet_infinity",
    "FlowBlock": "jacobian.triangular",
    "FrechetResult": "metrics.frechet",
    "GaussianStats": "features.stats",
    "GenmetricsError": "errors",
    "ISResult": "metrics.class_scores",
    "ImageSource": "images.sources",
    "IncompatibleStats": "features.stats",
    "Jacobian": "jacobian.operators",
    "KIDResult": "metrics.kernel_distances",
    "KNNResult": "probes.knn",
    "LARS": "probes.lars",
    "LabelLeak": "probes.label_guard",
    "LogDetCheck": "jacobian.result",
    "LogisticProbe": "probes.logistic",
    "NumericalFailure": "errors",
    "PROTOCOLS": "evaluation.protocols",
    "PRResult": "metrics.neighbours",
    "PairScore": "evaluation.reconstruction_report",
    "PairingError": "images.pairing",
    "PerceptualDistance": "networks.perceptual",
    "ProbeData": "probes.data",
    "ProbePreset": "probes.presets",
    "ProbeResult": "probes.report",
    "Processes": "images.decoding",
    "Protocol": "evaluation.protocols",
    "ReconstructionResult": "evaluation.reconstruction_report",
    "Reference": "evaluation.reference",
    "Report": "evaluation.report",
    "Score": "evaluation.report",
    "SpectrumResult": "jacobian.result",
    "StatsAccumulator": "features.stats",
    "TunedProbe": "probes.logistic",
    "UsageError": "errors",
    "WeightsUnavailable": "errors",
    "adm_center_crop": "images.adm_crop",
    "check_extractor": "networks.conformance",
    "choose_protocol": "evaluation.protocols",
    "cmmd": "metrics.kernel_distances",
    "compare_reports": "evaluation.compare",
    "efflite0_network": "networks.efflite0",
    "efflite0_normalize": "networks.efflite0",
    "evaluate": "evaluation.evaluate",
    "extract": "features.extraction",
    "extract_features": "features.extraction",
    "fd_infinity": "metrics.frechet_infinity",
    "frechet_at_equal_count": "metrics.frechet_floor",
    "frechet_distance": "metrics.frechet",
    "frechet_distance_from_features": "metrics.frechet",
    "frechet_floor": "metrics.frechet_floor",
    "frechet_standard_error": "metrics.frechet_error",
    "get_extractor": "networks.extractors",
    "inception_score": "metrics.class_scores",
    "jacobian_spectrum": "jacobian.spectrum",
    "kid": "metrics.kernel_distances",
    "knn_accuracy": "probes.knn",
    "linear_probe": "probes.training",
    "load_all_stats": "features.stats_files",
    "load_probe_file": "probes.data",
    "load_stats": "features.stats_files",
    "log_det_check": "jacobian.result",
    "logistic_probe": "probes.logistic",
    "merge_stats": "features.stats",
    "open_images": "images.sources",
    "open_reference": "evaluation.reference",
    "pack_images": "images.writing",
    "pair_images": "images.pairing",
    "perceptual_distance": "networks.perceptual",
    "plot_latents": "plots",
    "plot_spectra": "plots",
    "precision_recall": "metrics.neighbours",
    "prepare_images": "images.writing",
    "probe_depths": "probes.training",
    "probe_preset": "probes.presets",
    "project": "projection",
    "psnr": "metrics.pixel_metrics",
    "read_report": "evaluation.compare",
    "reconstruction_metrics": "evaluation.reconstruction",
    "require_label_free": "probes.label_guard",
    "save_stats": "features.stats_files",
    "singular_value_density": "jacobian.density",
    "square_sum": "jacobian.density",
    "ssim": "metrics.pixel_metrics",
    "tuned_logistic_probe": "probes.logistic",
    "write_npz": "images.writing",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
