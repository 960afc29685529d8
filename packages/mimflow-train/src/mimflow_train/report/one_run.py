"""``report.html``: a run on one page that needs no other file."""

from collections.abc import Sequence
from pathlib import Path

from mimflow_train.config import TrainConfig
from mimflow_train.config.file import read_config
from mimflow_train.report.curves import curves, health
from mimflow_train.report.figures import flow_section, latents_section, spectrum_section
from mimflow_train.report.page import missing, page, picture, write
from mimflow_train.report.tables import configuration, scores_table, summary_table
from mimflow_train.storage.files import read_json, read_reports
from mimflow_train.storage.run_folder import step_of, steps_done

__all__ = ["write_report"]

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
    title = f"MIMFlow {config.scale} on {config.data.source}"
    text = page(title, _about(config, steps_done(run_dir)), _sections(config, run_dir))
    return write(text, run_dir / "report.html")


def _about(config: TrainConfig, done: int) -> str:
    size = config.model.encoder.image_size
    steps = f"{config.steps:,} joint and {config.decoder_phase.steps:,} decoder steps"
    return (
        f"At step {done:,} of {steps}, {config.global_batch} images at {size} px, "
        f"seed {config.seed}, "
        f"guidance {config.guidance:g}; shown are the {config.weights} weights."
    )


def _sections(config: TrainConfig, run_dir: Path) -> list[tuple[str, str]]:
    reports = read_reports(run_dir)
    found = read_json(run_dir / "eval" / "scores.json")
    diagnostics = read_json(run_dir / "diagnostics.json")
    samples = picture(
        run_dir / "samples.png",
        "One row for each class; nothing was picked. Good: rows differ as the classes do, and "
        "the images of a row from each other.",
    )
    rebuilt = picture(
        run_dir / "reconstructions.png",
        "Held-out images, what the encoder saw (grey is hidden), what came back. Good: colours "
        "and outlines of the first row, also where it was hidden.",
    )
    return [
        ("Scores", summary_table(read_json(run_dir / "summary.json"))),
        ("Samples", samples),
        ("Reconstructions", rebuilt),
        ("Curves", curves(reports, config)),
        ("Health", health(reports, config)),
        ("Latents", latents_section(diagnostics, config.data.class_names)),
        ("Flow", flow_section(diagnostics)),
        ("Spectrum", spectrum_section(found)),
        ("Scores of genmetrics", scores_table(found, steps_done(run_dir))),
        ("Samples over time", "\n".join(_grids(run_dir / "samples"))),
        ("Configuration", configuration(config, run_dir)),
    ]


def _grids(folder: Path) -> Sequence[str]:
    paths = sorted(each for each in folder.glob("step_*.png") if step_of(each.stem) is not None)
    if not paths:
        return [missing("Sample grids")]
    places = {round(part * (len(paths) - 1) / (_SHOWN_GRIDS - 1)) for part in range(_SHOWN_GRIDS)}
    shown = [paths[place] for place in sorted(places)]
    figures = [
        picture(path, f"Step {step_of(path.stem):,}: the same noise and classes at every step.")
        for path in shown
    ]
    return ['<div class="flow">', *figures, "</div>"]
