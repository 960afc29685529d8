"""From a recipe and a row of a table to the configuration of one run."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from mimflow_train.config import TrainConfig
from mimflow_train.overrides import override
from mimflow_train.reproduce.design import Experiment, Variant

__all__ = ["PlannedRun", "autoencoder_config", "longest", "planned_runs", "variant_config"]


class PlannedRun(NamedTuple):
    """One training.

    Attributes:
        config: What is trained.
        until: Its last step.
        kind: ``joint``, or ``flow`` on a fixed autoencoder.
    """

    config: TrainConfig
    until: int
    kind: str = "joint"


def planned_runs(
    base: TrainConfig, experiment: Experiment, settings: Sequence[str] = ()
) -> list[PlannedRun]:
    """Return what an experiment trains at a scale for one seed, each once.

    Args:
        base: The scale's recipe with the user's own changes.
        experiment: What is to be shown.
        settings: The user's own changes again; they stand against the paper's.
    """
    planned: list[PlannedRun] = []
    if not experiment.trains:
        return planned
    for variant in experiment.variants:
        if variant.why_not(base.scale):
            continue
        config = variant_config(base, experiment, variant, base.seed, settings)
        runs = [PlannedRun(config, config.all_steps if variant.decoder_phase else config.steps)]
        if variant.two_stage:
            first = autoencoder_config(base, config)
            runs = [PlannedRun(first, first.steps), PlannedRun(config, config.steps, "flow")]
        planned += runs
    return longest(planned)


def longest(runs: Iterable[PlannedRun]) -> list[PlannedRun]:
    """Return runs without those that are the beginning of another.

    Args:
        runs: Trainings, of which some go on with a decoder phase where others end.
    """
    kept: list[PlannedRun] = []
    for run in runs:
        same = [each for each in kept if (each.config, each.kind) == (run.config, run.kind)]
        if same:
            kept[kept.index(same[0])] = max(same[0], run, key=lambda each: each.until)
        else:
            kept.append(run)
    return kept


def autoencoder_config(base: TrainConfig, config: TrainConfig) -> TrainConfig:
    """Return the first stage of a run in two: the recipe's flow, which learns nothing.

    Args:
        base: The recipe, whose flow all rows share at this stage.
        config: The run.
    """
    flow = replace(base.model.flow, num_tokens=config.model.flow.num_tokens)
    model = replace(config.model, flow=flow)
    return replace(config, model=model, loss=replace(config.loss, nll=0.0))


def variant_config(
    base: TrainConfig,
    experiment: Experiment,
    variant: Variant,
    seed: int,
    settings: Sequence[str] = (),
) -> TrainConfig:
    """Return the configuration of one row.

    Args:
        base: The scale's recipe with the user's own changes.
        experiment: What the row is part of.
        variant: The row.
        seed: Seed of everything random.
        settings: The user's own changes again; they stand against the paper's.

    Raises:
        ConfigError: If the row cannot be had from this recipe.
    """
    config = base
    if base.scale != "tiny":
        config = override(config, [*experiment.paper_settings, *settings])
    if variant.targets is not None:
        config = replace(config, model=config.model.imitating(variant.targets))
    tokens = [] if variant.tokens is None else _token_settings(config, variant.tokens)
    return override(config, [*tokens, *variant.settings, f"seed={seed}"])


def _token_settings(config: TrainConfig, share: Fraction) -> list[str]:
    """Change the number of latent tokens of every network.

    Feature decoders become transformers: an MLP's tokens must divide the patches.
    """
    count = int(config.model.encoder.num_patches * share)
    parts = ("encoder", "decoder", *(f"features.{name}" for name in config.model.features))
    settings = [f"model.{part}.num_latents={count}" for part in parts]
    settings += [f"model.features.{name}.kind=transformer" for name in config.model.features]
    return [*settings, f"model.flow.num_tokens={count}"]
