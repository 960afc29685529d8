"""From an experiment's name of what is measured to the function that does it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import assert_never

from mimflow_train.reproduce.design import Experiment
from mimflow_train.reproduce.figures import map_latents, probe_depths, spectra
from mimflow_train.reproduce.outcome import Column, Outcome, Row
from mimflow_train.reproduce.pictures import draw_columns, draw_growth
from mimflow_train.reproduce.session import Session
from mimflow_train.reproduce.tables import count_parameters, score_rows
from mimflow_train.reproduce.timing import time_steps, time_tokens

__all__ = ["measure"]


def measure(session: Session, name: str, experiment: Experiment) -> Outcome:
    """Train what an experiment needs, and measure it.

    Args:
        session: What to do it with.
        name: The experiment's folder.
        experiment: What is to be shown.
    """
    match experiment.measure:
        case "scores":
            return score_rows(session, name, experiment)
        case "parameters":
            return _drawn(session, name, count_parameters(experiment), draw_columns)
        case "step":
            return _drawn(session, name, time_steps(session, experiment), draw_columns)
        case "tokens":
            return _drawn(session, name, time_tokens(session, experiment), draw_growth)
        case "map":
            return map_latents(session, name, experiment)
        case "spectra":
            return spectra(session, name, experiment)
        case "depths":
            return probe_depths(session, name, experiment)
        case never:
            assert_never(never)


def _drawn(
    session: Session,
    name: str,
    outcome: Outcome,
    draw: Callable[[Sequence[Row], Sequence[Column], Path], None],
) -> Outcome:
    if not any(row.ours for row in outcome.rows):
        return outcome
    picture = f"{name}.png"
    draw(outcome.rows, outcome.columns, session.out / name / picture)
    return replace(outcome, pictures=(picture,))
