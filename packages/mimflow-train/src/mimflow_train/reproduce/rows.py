"""One row over all seeds: trained, measured, and where training diverged or scores overflowed."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from genmetrics import NumericalFailure
from mimflow_train.errors import DivergedError
from mimflow_train.reproduce.design import Experiment, Variant
from mimflow_train.reproduce.outcome import Origin, Row
from mimflow_train.reproduce.session import Session
from mimflow_train.reproduce.trained import Trained, trained
from mimflow_train.reproduce.two_stage import fixed_autoencoder, train_two_stages
from mimflow_train.reproduce.variants import planned_runs, variant_config
from mimflow_train.storage.run_folder import checkpoint_folder, read_manifest
from mimflow_train.telemetry.console import say
from tarflow_prior import NonFiniteError

__all__ = ["measure_row", "train_row"]


def measure_row(
    session: Session,
    experiment: Experiment,
    variant: Variant,
    measure: Callable[[Trained], Mapping[str, float]],
) -> Row:
    """Train and measure a row for every seed; seeds that are lost are told, the others kept.

    Lost are those whose training diverges, or whose samples or scores are not finite.

    Args:
        session: What to do it with.
        experiment: What the row is part of.
        variant: The row.
        measure: Returns the numbers of one run.
    """
    why_not = variant.why_not(session.base.scale)
    found: list[Mapping[str, float]] = []
    diverged: list[int] = []
    overflowed: list[int] = []
    runs: list[Origin] = []
    for seed in () if why_not else session.seeds:
        try:
            run = train_row(session, experiment, variant, seed)
        except DivergedError:
            diverged.append(seed)
            found.append({})
            continue
        runs += _origins(session, experiment, variant, seed)
        try:
            found.append(measure(run))
        except (NonFiniteError, NumericalFailure) as error:
            say(f"{variant.label}, seed {seed}: {error}")
            overflowed.append(seed)
            found.append({})
    keys = dict.fromkeys(key for each in found for key in each)
    ours = {key: [each.get(key, math.nan) for each in found] for key in keys}
    return Row(
        label=variant.label,
        paper=variant.paper,
        ours=ours,
        why_not=why_not,
        diverged=tuple(diverged),
        overflowed=tuple(overflowed),
        runs=tuple(runs),
    )


def _origins(
    session: Session, experiment: Experiment, variant: Variant, seed: int
) -> Iterator[Origin]:
    """Yield what a row's networks came from, as their checkpoints say."""
    alone = replace(experiment, variants=(variant,), claims=())
    for run in planned_runs(replace(session.base, seed=seed), alone, session.settings):
        run_dir = session.run_dir(run.config)
        manifest = read_manifest(checkpoint_folder(run_dir, run.until))
        yield Origin(
            run=run_dir.name,
            seed=seed,
            steps=run.until,
            commit=manifest.get("commit") or "unknown",
            torch=manifest.get("versions", {}).get("torch", "unknown"),
            precision=manifest.get("precision", "unknown"),
        )


def train_row(session: Session, experiment: Experiment, variant: Variant, seed: int) -> Trained:
    """Return the networks of one row and seed, trained if they are not there.

    Args:
        session: What to do it with.
        experiment: What the row is part of.
        variant: The row.
        seed: Seed of everything random.
    """
    config = variant_config(session.base, experiment, variant, seed, session.settings)
    if experiment.has_no_flow(variant):
        return fixed_autoencoder(session, config)
    if variant.two_stage:
        return train_two_stages(session, config, decoder_phase=variant.decoder_phase)
    return trained(session, config, decoder_phase=variant.decoder_phase)
