"""What is made of a trained run: pictures, scores, and the report."""

import dataclasses
import json
from pathlib import Path

import torch

from mimflow_train.config import TrainConfig
from mimflow_train.data.images import LabelledImages
from mimflow_train.data.source import load_data
from mimflow_train.evaluation.diagnostics import diagnose, write_diagnostics
from mimflow_train.evaluation.reconstruction import Reconstruction, evaluate_reconstruction
from mimflow_train.evaluation.run_pictures import reconstruction_grid, sample_grid
from mimflow_train.evaluation.summary import Evaluation, evaluate
from mimflow_train.pretrained import trained_model
from mimflow_train.report.one_run import write_report
from mimflow_train.storage.checkpoint import joint_checkpoint, latest_checkpoint, load_model
from mimflow_train.storage.files import written_whole

__all__ = ["finish"]


def finish(
    config: TrainConfig, run_dir: Path, device: torch.device
) -> tuple[Evaluation, Reconstruction | None]:
    """Write the pictures, the scores and the report of a trained run.

    Returns:
        The scores, and reconstruction as it was before the decoder phase, if there was one.
    """
    model = trained_model(config, run_dir, device)
    data = load_data(config, run_dir)
    if data.attribution:
        (run_dir / "ATTRIBUTION.txt").write_text(data.attribution)
    sample_grid(model, config, data, run_dir / "samples.png")
    reconstruction_grid(model, config, data, run_dir / "reconstructions.png")
    scores = evaluate(model, config, data)
    before = _before_decoder_phase(config, run_dir, data, device)
    summary = dataclasses.asdict(scores)
    if before is not None:
        summary["before_decoder_phase"] = dataclasses.asdict(before)
    write_diagnostics(diagnose(model, config, data), run_dir)
    with written_whole(run_dir / "summary.json") as draft:  # by which scripts know the end
        draft.write_text(json.dumps(summary, indent=2) + "\n")
    write_report(run_dir)
    return scores, before


def _before_decoder_phase(
    config: TrainConfig, run_dir: Path, data: LabelledImages, device: torch.device
) -> Reconstruction | None:
    folder = joint_checkpoint(config, run_dir)
    newest = latest_checkpoint(run_dir, lambda _: None)
    if newest is None or newest == folder or not folder.exists():
        return None
    return evaluate_reconstruction(load_model(folder, config, device), config, data)
