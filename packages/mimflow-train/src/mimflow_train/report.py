"""``report.html``: a run on one page that needs no other file."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure

from mimflow_train.config import TrainConfig
from mimflow_train.config_file import read_config, to_dict
from mimflow_train.errors import StorageError

__all__ = ["write_report"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse } td { padding: .15rem .8rem .15rem 0; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums }
img { max-width: 100% } figure { margin: 0 0 1rem }
figcaption, .note { color: #666; font-size: .87rem } pre { font-size: .78rem; overflow-x: auto }
"""
_ABOUT = {
    "num_images": "images in every set",
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
    "class_accuracy_posterior": "the same in decoded posterior latents",
    "class_accuracy_real": "the same in real images",
    "class_chance": "chance",
}
_SHOWN_GRIDS = 4


def write_report(run_dir: Path) -> Path:
    """Write a run's ``report.html`` from what its folder holds: scores, curves, pictures, config.

    Parts that a run does not have yet are named as missing.

    Args:
        run_dir: The run.

    Raises:
        ConfigError: If there is no run.
        StorageError: If the page cannot be written.
    """
    config = read_config(run_dir)
    page = "\n".join(_parts(config, run_dir))
    path = run_dir / "report.html"
    try:
        path.write_text(page)
    except OSError as error:
        raise StorageError(f"Expected to write {path}; {error}. Free some space.") from error
    return path


def _parts(config: TrainConfig, run_dir: Path) -> Sequence[str]:
    title = f"MIMFlow {config.scale} on {config.data.source}"
    size = config.model.encoder.image_size
    steps = f"{config.steps:,} joint and {config.decoder_phase.steps:,} decoder steps"
    return [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{_text(title)}</title>",
        f"<style>{_STYLE}</style><h1>{_text(title)}</h1>",
        f"<p>{steps} of {config.global_batch} images at {size} px, seed {config.seed}, "
        f"guidance {config.guidance:g}; shown are the {config.weights} weights.</p>",
        "<h2>Scores</h2>",
        _scores(run_dir / "summary.json"),
        "<h2>Samples</h2>",
        _picture(run_dir / "samples.png", "One row for each class; nothing was picked."),
        "<h2>Reconstructions of held-out images</h2>",
        _picture(run_dir / "reconstructions.png", "Image, what the encoder saw, what came back."),
        "<h2>Curves</h2>",
        _curves(_reports(run_dir / "metrics.jsonl"), config.steps),
        "<h2>Samples over time</h2>",
        *_grids(run_dir / "samples"),
        "<h2>Configuration</h2>",
        f"<pre>{_text(json.dumps(to_dict(config), indent=2))}</pre></html>",
    ]


def _text(value: object) -> str:
    return html.escape(str(value))


def _missing(what: str) -> str:
    return f"<p class='note'>{_text(what)}: not there yet.</p>"


def _scores(path: Path) -> str:
    if not path.is_file():
        return _missing("Scores")
    scores: dict[str, Any] = json.loads(path.read_text())
    before: Mapping[str, Any] = scores.pop("before_decoder_phase", {})
    head = "<td></td><td class='number'>now</td>"
    head += "<td class='number'>before the decoder phase</td>" if before else ""
    rows = [f"<tr>{head}</tr>"]
    for name, value in scores.items():
        earlier = f"{before[name]:.4g}" if name in before else ""
        rows.append(
            f"<tr><td>{_text(_ABOUT.get(name, name))}</td><td class='number'>{value:.4g}</td>"
            f"<td class='number'>{earlier}</td></tr>"
        )
    note = "fd_efflite0 is not FID: compare it only with itself, at the same N."
    return f"<table>{''.join(rows)}</table><p class='note'>{note}</p>"


def _picture(path: Path, caption: str) -> str:
    if not path.is_file():
        return _missing(path.name)
    return _figure(path.read_bytes(), caption)


def _figure(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode()
    alt = _text(caption)
    return (
        f"<figure><img alt='{alt}' src='data:image/png;base64,{data}'>"
        f"<figcaption>{alt}</figcaption></figure>"
    )


def _grids(folder: Path) -> Sequence[str]:
    paths = sorted(folder.glob("step_*.png"))
    if not paths:
        return [_missing("Sample grids")]
    places = {round(part * (len(paths) - 1) / (_SHOWN_GRIDS - 1)) for part in range(_SHOWN_GRIDS)}
    shown = [paths[place] for place in sorted(places)]
    return [_picture(path, f"Step {int(path.stem[5:]):,}") for path in shown]


def _reports(path: Path) -> list[dict[str, Any]]:
    reports = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            reports.append(json.loads(line))
        except ValueError:  # a crash tore it
            continue
    return reports


def _curves(reports: Sequence[Mapping[str, Any]], joint_steps: int) -> str:
    """Draw every reported term over the steps, the end of the joint phase as a line."""
    names = list(dict.fromkeys(name for each in reports for name in each))
    names = [name for name in names if name not in ("step", "time")]
    if not names:
        return _missing("Curves")
    columns = 3
    rows = -(-len(names) // columns)
    figure = matplotlib.figure.Figure(figsize=(11, 2.3 * rows), layout="constrained")
    for number, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, number + 1)
        points = [(each["step"], each[name]) for each in reports if name in each]
        axes.plot(*zip(*points, strict=True), linewidth=1)
        axes.set_title(name, fontsize=10)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        if reports[-1]["step"] > joint_steps:
            axes.axvline(joint_steps, color="grey", linewidth=0.7, linestyle=":")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    caption = "Unweighted terms over the steps; rate is the NLL above its floor."
    return _figure(picture.getvalue(), caption)
