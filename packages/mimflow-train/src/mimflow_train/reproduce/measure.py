"""From an experiment's name of what is measured to the function that does it."""

from typing import assert_never

from mimflow_train.reproduce.design import Experiment
from mimflow_train.reproduce.figures import map_latents, probe_depths, spectra
from mimflow_train.reproduce.outcome import Outcome
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
            return count_parameters(experiment)
        case "step":
            return time_steps(session, experiment)
        case "tokens":
            return time_tokens(session, experiment)
        case "map":
            return map_latents(session, name, experiment)
        case "spectra":
            return spectra(session, name, experiment)
        case "depths":
            return probe_depths(session, name, experiment)
        case never:
            assert_never(never)
