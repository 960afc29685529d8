"""What experiments still need: trainings that are not done, weights of frozen networks."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from genmetrics import WeightsUnavailable
from genmetrics.networks import efflite0, inception, open_clip_networks, timm_networks
from mimflow_train.convolutional import SD_VAE_FILE, require_diffusers
from mimflow_train.frozen.weights import PretrainedFile, find_weights, weights_status
from mimflow_train.reproduce.design import Experiment
from mimflow_train.reproduce.session import Session
from mimflow_train.reproduce.variants import PlannedRun, planned_runs
from mimflow_train.storage.run_folder import steps_done
from mimflow_train.teachers import needed_files

__all__ = ["Left", "missing_networks", "require_networks", "unfinished"]


class Left(NamedTuple):
    """A run that is not done.

    Attributes:
        run: What is trained.
        steps: Steps that it lacks.
    """

    run: PlannedRun
    steps: int


def unfinished(session: Session, experiment: Experiment) -> list[Left]:
    """Return the runs of an experiment that have steps left, over all seeds.

    Args:
        session: Recipe, seeds, and where runs lie.
        experiment: What is to be shown.
    """
    left = []
    for seed in session.seeds:
        base = replace(session.base, seed=seed)
        for run in planned_runs(base, experiment, session.settings):
            done = steps_done(session.run_dir(run.config))
            if done < run.until:
                left.append(Left(run, run.until - done))
    return left


def require_networks(session: Session, experiments: Iterable[Experiment]) -> None:
    """Find, or fetch, every frozen network before hours are spent on what it would be missed for.

    Args:
        session: Recipe, seeds, device, and the feature network of the scores.
        experiments: What is to be shown.

    Raises:
        ConfigError: If diffusers is missing for a row of SD-VAE's kind.
        WeightsError: If the weights of a teacher or distance cannot be had.
        genmetrics.WeightsUnavailable: If those of the feature network cannot be had.
    """
    chosen = list(experiments)
    if any(each.is_convolutional for each in chosen):
        require_diffusers()
    if any(each.measure == "scores" for each in chosen):
        assert session.extractor.weights_sha256  # it is loaded here, and kept
    for each in chosen:
        for file in (*_looked_at(session, each), *_files(unfinished(session, each))):
            find_weights(file)


def missing_networks(
    session: Session, experiment: Experiment, runs: Iterable[PlannedRun]
) -> list[str]:
    """Return the names of the networks whose weights are not on this machine; fetches nothing.

    Args:
        session: The feature network of the scores.
        experiment: What is to be shown.
        runs: What is trained for it.
    """
    trained = _files(Left(run, run.until) for run in runs)
    files = (*_looked_at(session, experiment), *trained)
    names = [file.network for file in files if not weights_status(file).startswith("in ")]
    if experiment.measure == "scores" and _lacks(session.extractor_name):
        names.append(f"{session.extractor_name} (scores)")
    return names


def _looked_at(session: Session, experiment: Experiment) -> list[PretrainedFile]:
    """Return the file of the autoencoder that is looked at without a run; at tiny it has one."""
    scale = session.base.scale
    rows = (each for each in experiment.variants if not each.why_not(scale))
    is_published = scale != "tiny" and any(map(experiment.has_no_flow, rows))
    return [SD_VAE_FILE] if is_published else []


def _files(runs: Iterable[Left]) -> Iterator[PretrainedFile]:
    seen = set()
    for run, steps in runs:
        second = run.until - run.config.steps
        for file in needed_files(run.config, joint_phase=steps > second, decoder_phase=second > 0):
            if file.name not in seen:
                seen.add(file.name)
                yield file


def _lacks(extractor: str) -> bool:
    """Return whether a feature network's weights are missing, as far as that is known."""
    finders: dict[str, Callable[[], Path]] = {
        "efflite0": efflite0.packaged_efflite0_file,
        "inception": lambda: inception.find_inception_weights(download=False),
        "dinov2": lambda: timm_networks.find_dinov2_weights(download=False),
        "clip": lambda: open_clip_networks.find_clip_weights(download=False),
    }
    if extractor not in finders:
        return False
    try:
        finders[extractor]()
    except WeightsUnavailable:
        return True
    return False
