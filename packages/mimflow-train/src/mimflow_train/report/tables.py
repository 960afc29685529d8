"""Tables of a report: scores with their N, and the configuration with what it was run by."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mimflow_train.config import TrainConfig
from mimflow_train.config.file import to_dict
from mimflow_train.report.page import escaped, missing, note, table
from mimflow_train.storage.run_folder import checkpoints, read_manifest, told_of_init

__all__ = ["ABOUT", "configuration", "flat", "number", "scores_table", "summary_table"]

ABOUT = {
    "num_images": "images in every set, N",
    "nll_train": "NLL per latent dimension, training images",
    "nll_held_out": "NLL per latent dimension, held-out images",
    "nll_floor": "its floor, the entropy of the latent noise",
    "psnr": "masked reconstruction, dB",
    "psnr_whole": "reconstruction with no patch hidden, dB",
    "fd_floor": "fd_efflite0 of real images: the floor at this N",
    "fd_posterior": "fd_efflite0 of decoded posterior latents",
    "fd_whole": "fd_efflite0 with no patch hidden",
    "fd_flow": "fd_efflite0 of samples",
    "fd_gaussian": "fd_efflite0 of decoded Gaussian latents: no prior",
    "gap_closed": "share of the gap that the flow closes",
    "class_accuracy": "samples in which a probe sees the class that was asked for",
    "class_num_samples": "N of these samples",
    "class_accuracy_posterior": "the same share in decoded posterior latents",
    "class_accuracy_real": "the same share in real images",
    "class_chance": "chance",
}
_SETS = {
    "samples": "samples",
    "masked_reconstruction": "hidden in part, decoded",
    "whole_reconstruction": "no patch hidden, decoded",
}


def summary_table(summary: Mapping[str, Any]) -> str:
    """Show the scores that end a run, and reconstruction before the decoder phase beside them.

    Args:
        summary: ``summary.json``; empty if there is none.
    """
    if not summary:
        return missing("Scores", "They come when the run ends.")
    before: Mapping[str, Any] = summary.get("before_decoder_phase", {})
    head = ["", "now", *(["before the decoder phase"] if before else [])]
    rows = [
        [
            ABOUT.get(name, name),
            number(value) or "none",
            *([number(before.get(name))] if before else []),
        ]
        for name, value in summary.items()
        if name != "before_decoder_phase" and not (value is None and name.startswith("class_"))
    ]
    words = (
        "Good: fd_efflite0 of samples near that of decoded posterior latents, the share of the "
        "gap near 1, and both NLLs alike. fd_efflite0 is not FID: compare it only with itself, at "
        "the same N."
    )
    return table(head, rows) + note(words)


def scores_table(found: Mapping[str, Any], newest: int) -> str:
    """Show what ``mimflow-eval`` found and of what, with N and standard error of each metric.

    Args:
        found: ``eval/scores.json``; empty if there is none.
        newest: Step of the run's newest checkpoint.
    """
    if not found:
        return missing("Scores of genmetrics", "`mimflow-eval RUN` adds them.")
    rows = [
        [f"{metric}, {title}", number(each["value"]), number(each.get("se")), _counts(each)]
        for name, title in _SETS.items()
        for metric, each in found[name]["metrics"].items()
    ]
    inverted = [number(found["inversion_error"]), "", str(found["num_inverted"])]
    rows.append(["largest difference, flow and back", *inverted])
    remarks = dict.fromkeys(
        warning["message"] for name in _SETS for warning in found[name].get("warnings", [])
    )
    words = [_judged(found.get("of", {}), newest), *remarks]
    return table(["metric", "value", "standard error", "N"], rows) + "".join(map(note, words))


def _judged(of: Mapping[str, Any], newest: int) -> str:
    """Say what scores are of, and whether the run has gone on since."""
    if not of:
        return "These scores do not say which weights they are of."
    text = (
        f"Of the {of['weights']} weights at step {of['step']}, guidance {of['guidance']:g}, "
        f"against held-out images of {of['images']}."
    )
    if of["step"] == newest:
        return text
    return f"{text} The run is at step {newest} now; `mimflow-eval RUN` judges it anew."


def configuration(config: TrainConfig, run_dir: Path) -> str:
    """Show the resolved configuration, and what the newest checkpoint says it was made by."""
    folders = checkpoints(run_dir)
    manifest = read_manifest(folders[-1]) if folders else {}
    made_by = [*manifest.get("versions", {}).items()]
    if manifest.get("commit"):
        made_by.append(("commit", manifest["commit"]))
    words = ", ".join(f"{name} {value}" for name, value in made_by)
    text = escaped(json.dumps(to_dict(config), indent=2))
    began = note(told_of_init(manifest["init"])) if manifest.get("init") else ""
    return (
        note(f"Newest checkpoint by {words}.") if words else ""
    ) + f"{began}<details><summary>config.json</summary><pre>{text}</pre></details>"


def number(value: int | float | None) -> str:
    """Return a whole number as it is, another with four digits, None as nothing.

    Example:
        >>> number(12.3456), number(11.0), number(351), number(None)
        ('12.35', '11.00', '351', '')
    """
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:#.4g}".removesuffix(".")


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one with dotted names.

    Example:
        >>> flat({"optim": {"lr": 1, "betas": [2]}, "seed": 3})
        {'optim.lr': 1, 'optim.betas': [2], 'seed': 3}
    """
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves


def _counts(metric: Mapping[str, Any]) -> str:
    """Return the N of a metric: samples against references, or pairs."""
    names = ("n_samples", "n_ref", "n_pairs", "n_a", "n_b")
    return " and ".join(str(metric[name]) for name in names if name in metric)
