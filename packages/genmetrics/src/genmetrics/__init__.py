"""Metrics of generated images, honest about the number of samples.

Names are loaded on first use, so ``import genmetrics`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genmetrics.adm_crop import adm_center_crop
    from genmetrics.class_scores import ISResult, inception_score
    from genmetrics.compare import Difference, compare_reports, read_report
    from genmetrics.conformance import check_extractor
    from genmetrics.decoding import Processes
    from genmetrics.efflite0 import efflite0_network, efflite0_normalize
    from genmetrics.errors import (
        BadInput,
        GenmetricsError,
        NumericalFailure,
        UsageError,
        WeightsUnavailable,
    )
    from genmetrics.evaluation import evaluate
    from genmetrics.evaluator import Evaluator
    from genmetrics.extractors import Extractor, get_extractor
    from genmetrics.extrapolation import FDInfinity, fd_infinity
    from genmetrics.features import extract, extract_features
    from genmetrics.floor import EqualCountDistance, frechet_at_equal_count, frechet_floor
    from genmetrics.frechet import FrechetResult, frechet_distance, frechet_distance_from_features
    from genmetrics.frechet_error import frechet_standard_error
    from genmetrics.image_files import pack_images, prepare_images, write_npz
    from genmetrics.jacobian.density import singular_value_density, square_sum
    from genmetrics.jacobian.operators import Jacobian
    from genmetrics.jacobian.result import LogDetCheck, SpectrumResult, log_det_check
    from genmetrics.jacobian.spectrum import jacobian_spectrum
    from genmetrics.jacobian.triangular import FlowBlock
    from genmetrics.kernel_distances import CMMDResult, KIDResult, cmmd, kid
    from genmetrics.knn import KNNResult, knn_accuracy
    from genmetrics.label_guard import LabelLeak, require_label_free
    from genmetrics.lars import LARS
    from genmetrics.neighbours import PRResult, precision_recall
    from genmetrics.pairing import PairingError, pair_images
    from genmetrics.perceptual import PerceptualDistance, perceptual_distance
    from genmetrics.pixel_metrics import psnr, ssim
    from genmetrics.plots import plot_latents, plot_spectra
    from genmetrics.probe import LogisticProbe, TunedProbe, logistic_probe, tuned_logistic_probe
    from genmetrics.probe_data import ProbeData, load_probe_file
    from genmetrics.probe_presets import ProbePreset, probe_preset
    from genmetrics.probe_report import ProbeResult
    from genmetrics.probe_training import linear_probe, probe_depths
    from genmetrics.projection import project
    from genmetrics.protocols import PROTOCOLS, Protocol, choose_protocol
    from genmetrics.reconstruction import reconstruction_metrics
    from genmetrics.reconstruction_report import PairScore, ReconstructionResult
    from genmetrics.reference import Reference, open_reference
    from genmetrics.report import Report, Score
    from genmetrics.sources import ImageSource, open_images
    from genmetrics.stats import GaussianStats, IncompatibleStats, StatsAccumulator, merge_stats
    from genmetrics.stats_files import load_all_stats, load_stats, save_stats

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
    "CMMDResult": "kernel_distances",
    "Difference": "compare",
    "EqualCountDistance": "floor",
    "Evaluator": "evaluator",
    "Extractor": "extractors",
    "FDInfinity": "extrapolation",
    "FlowBlock": "jacobian.triangular",
    "FrechetResult": "frechet",
    "GaussianStats": "stats",
    "GenmetricsError": "errors",
    "ISResult": "class_scores",
    "ImageSource": "sources",
    "IncompatibleStats": "stats",
    "Jacobian": "jacobian.operators",
    "KIDResult": "kernel_distances",
    "KNNResult": "knn",
    "LARS": "lars",
    "LabelLeak": "label_guard",
    "LogDetCheck": "jacobian.result",
    "LogisticProbe": "probe",
    "NumericalFailure": "errors",
    "PROTOCOLS": "protocols",
    "PRResult": "neighbours",
    "PairScore": "reconstruction_report",
    "PairingError": "pairing",
    "PerceptualDistance": "perceptual",
    "ProbeData": "probe_data",
    "ProbePreset": "probe_presets",
    "ProbeResult": "probe_report",
    "Processes": "decoding",
    "Protocol": "protocols",
    "ReconstructionResult": "reconstruction_report",
    "Reference": "reference",
    "Report": "report",
    "Score": "report",
    "SpectrumResult": "jacobian.result",
    "StatsAccumulator": "stats",
    "TunedProbe": "probe",
    "UsageError": "errors",
    "WeightsUnavailable": "errors",
    "adm_center_crop": "adm_crop",
    "check_extractor": "conformance",
    "choose_protocol": "protocols",
    "cmmd": "kernel_distances",
    "compare_reports": "compare",
    "efflite0_network": "efflite0",
    "efflite0_normalize": "efflite0",
    "evaluate": "evaluation",
    "extract": "features",
    "extract_features": "features",
    "fd_infinity": "extrapolation",
    "frechet_at_equal_count": "floor",
    "frechet_distance": "frechet",
    "frechet_distance_from_features": "frechet",
    "frechet_floor": "floor",
    "frechet_standard_error": "frechet_error",
    "get_extractor": "extractors",
    "inception_score": "class_scores",
    "jacobian_spectrum": "jacobian.spectrum",
    "kid": "kernel_distances",
    "knn_accuracy": "knn",
    "linear_probe": "probe_training",
    "load_all_stats": "stats_files",
    "load_probe_file": "probe_data",
    "load_stats": "stats_files",
    "log_det_check": "jacobian.result",
    "logistic_probe": "probe",
    "merge_stats": "stats",
    "open_images": "sources",
    "open_reference": "reference",
    "pack_images": "image_files",
    "pair_images": "pairing",
    "perceptual_distance": "perceptual",
    "plot_latents": "plots",
    "plot_spectra": "plots",
    "precision_recall": "neighbours",
    "prepare_images": "image_files",
    "probe_depths": "probe_training",
    "probe_preset": "probe_presets",
    "project": "projection",
    "psnr": "pixel_metrics",
    "read_report": "compare",
    "reconstruction_metrics": "reconstruction",
    "require_label_free": "label_guard",
    "save_stats": "stats_files",
    "singular_value_density": "jacobian.density",
    "square_sum": "jacobian.density",
    "ssim": "pixel_metrics",
    "tuned_logistic_probe": "probe",
    "write_npz": "image_files",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
