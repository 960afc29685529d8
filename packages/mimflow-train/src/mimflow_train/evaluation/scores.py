"""A trained run before genmetrics: its samples and reconstructions as files, and their scores."""

import copy
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jaxtyping import Float
from torch import Tensor

from genmetrics import (
    Extractor,
    ImageSource,
    Protocol,
    Report,
    SpectrumResult,
    evaluate,
    jacobian_spectrum,
    open_images,
    reconstruction_metrics,
)
from genmetrics.evaluation.reconstruction_report import ReconstructionResult
from mimflow_train.config import TrainConfig
from mimflow_train.data.images import LabelledImages, Split, in_batches
from mimflow_train.draws import generator
from mimflow_train.evaluation.class_probe import ClassProbe, probe_classes
from mimflow_train.evaluation.flow_diagnostics import inversion_error
from mimflow_train.evaluation.pictures import save_npz
from mimflow_train.evaluation.reconstruction import decoded, encode, unmasked
from mimflow_train.evaluation.sampling import generate
from mimflow_train.evaluation.selection import CHUNK, drawn_labels
from mimflow_train.model import MIMFlow
from mimflow_train.storage.files import written_whole
from mimflow_train.telemetry.console import counted
from tarflow_prior import TarFlow, triangular_blocks

__all__ = ["Judging", "RunScores", "flow_spectrum", "score_run"]


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How a run is judged.

    Attributes:
        extractor: The feature network.
        protocol: Metrics of the samples.
        num: How many samples; their classes are spread as the held-out images' are.
        num_inverted: How many held-out latents are sent through the flow and back, at least 1.
        num_spectra: At how many latents the flow's Jacobian is looked at.
        num_probe: From how many training images linear probes learn the class; 0 for no probe.
        step: Which weights these are, for who reads the scores later; None if nothing says it.
    """

    extractor: Extractor
    protocol: Protocol
    num: int
    num_inverted: int = 256
    num_spectra: int = 0
    num_probe: int = 0
    step: int | None = None


@dataclass(frozen=True)
class RunScores:
    """What genmetrics says of a run.

    Attributes:
        samples: New images against held-out ones, of the same classes.
        masked: Held-out images that were hidden in part, and what came back.
        whole: The same with no patch hidden.
        inversion_error: Largest difference of a latent and its way through the flow and back.
        num_inverted: Held-out latents that were sent.
        spectrum: Ends of the flow's Jacobian at held-out latents; None if it was not asked for.
        probe: Where the class can be read off; None if it was not asked for.
        of: What was judged: ``step``, ``weights``, ``guidance`` and ``images``.
    """

    samples: Report
    masked: ReconstructionResult
    whole: ReconstructionResult
    inversion_error: float
    num_inverted: int
    spectrum: SpectrumResult | None
    probe: ClassProbe | None
    of: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "of": dict(self.of),
            "samples": self.samples.to_dict(),
            "masked_reconstruction": self.masked.to_dict(),
            "whole_reconstruction": self.whole.to_dict(),
            "inversion_error": self.inversion_error,
            "num_inverted": self.num_inverted,
            "spectrum": self.spectrum and self.spectrum.to_dict(),
            "probe": self.probe and dataclasses.asdict(self.probe),
        }

    def to_text(self) -> str:
        """Return the tables, one below the other."""
        parts = [
            ("samples of the flow against held-out images", self.samples.to_text()),
            ("held-out images, hidden in part, decoded", self.masked.to_text()),
            ("held-out images, no patch hidden, decoded", self.whole.to_text()),
            (
                "flow and back",
                f"largest difference {self.inversion_error:.1e}, N = {self.num_inverted}",
            ),
        ]
        if self.spectrum is not None:
            parts.append(("Jacobian of the flow, no class", self.spectrum.to_text()))
        if self.probe is not None:
            title = "linear probes of the class, accuracy on held-out images, mean over classes"
            parts.append((title, self.probe.to_text()))
        return "\n\n".join(f"{title}\n{text}" for title, text in parts)


def score_run(
    model: MIMFlow,
    config: TrainConfig,
    data: LabelledImages,
    folder: Path,
    judging: Judging,
) -> RunScores:
    """Write the images of a run that are judged, and judge them.

    Args:
        model: The run's networks.
        config: The run; its seed decides every draw.
        data: Training and held-out images; the second are the reference.
        folder: Receives ``samples.npz``, ``real.npz``, ``masked.npz`` and ``whole.npz``, for any
            tool that reads ADM's format, and ``scores.json``.
        judging: How many samples, and what is asked of them.
    """
    images, latents = _written_sets(model, config, data.held_out, folder, judging.num)
    samples, masked, whole = _judged_sets(images, judging, config.seed, folder)
    inverted = latents[: judging.num_inverted]
    scores = RunScores(
        samples=samples,
        masked=masked,
        whole=whole,
        inversion_error=inversion_error(model.flow, inverted),
        num_inverted=len(inverted),
        spectrum=flow_spectrum(model.flow, latents[: judging.num_spectra])
        if judging.num_spectra
        else None,
        probe=probe_classes(model, config, data, judging.num_probe) if judging.num_probe else None,
        of={
            "step": judging.step,
            "weights": config.weights,
            "guidance": config.guidance,
            "images": config.data.source,
        },
    )
    text = json.dumps(scores.to_dict(), indent=2, allow_nan=False)
    with written_whole(folder / "scores.json") as draft:
        draft.write_text(text + "\n")
    return scores


def _written_sets(
    model: MIMFlow, config: TrainConfig, held_out: Split, folder: Path, num: int
) -> tuple[dict[str, ImageSource], Float[Tensor, "b k d"]]:
    """Return the images that are judged, in files, and latents of those that are hidden in part."""
    draw = generator(config.seed, "mimflow-eval")
    label = drawn_labels(held_out.labels, num, draw)
    latents, latents_whole = (
        encode(model, each, held_out.images, "mimflow-eval").z
        for each in (config, unmasked(config))
    )
    sets = {
        "samples": (generate(model, label, draw, guidance=config.own_guidance), label),
        "real": (in_batches(held_out.images, CHUNK), held_out.labels),
        "masked": (decoded(model, latents), held_out.labels),
        "whole": (decoded(model, latents_whole), held_out.labels),
    }
    images = {
        name: open_images(
            save_npz(
                counted(batches, len(of_class), f"{name}.npz"), of_class, folder / f"{name}.npz"
            )
        )
        for name, (batches, of_class) in sets.items()
    }
    return images, latents


def _judged_sets(
    images: Mapping[str, ImageSource], judging: Judging, seed: int, folder: Path
) -> tuple[Report, ReconstructionResult, ReconstructionResult]:
    """Compare three sets with the real images, whose features are taken once."""
    real, extractor = images["real"], judging.extractor
    with TemporaryDirectory(prefix=".features-", dir=folder) as cache:
        samples = evaluate(
            images["samples"],
            real,
            extractor=extractor,
            protocol=judging.protocol,
            seed=seed,
            cache=cache,
        )
        masked, whole = (
            reconstruction_metrics(
                real,
                images[name],
                ("psnr", "ssim", "rfid"),
                "index",
                extractor=extractor,
                cache=Path(cache),
            )
            for name in ("masked", "whole")
        )
    return samples, masked, whole


def flow_spectrum(flow: TarFlow, z: Float[Tensor, "b k d"]) -> SpectrumResult:
    """Find both ends of the flow's Jacobian spectrum, without a class.

    In float64, where a small singular value can be told from rounding.

    Args:
        flow: The flow.
        z: Latents, at least one.
    """
    exact = copy.deepcopy(flow).double()
    return jacobian_spectrum(exact, z.double(), blocks=triangular_blocks(exact))
