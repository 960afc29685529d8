"""From a recipe and a row of a table to the configuration of one run."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from mim_encoder import MaskRatio
from mimflow_train.config import ConvolutionalConfig, TrainConfig
from mimflow_train.config.overrides import override
from mimflow_train.recipes import RECIPES
from mimflow_train.reproduce.design import Experiment, Variant
from tarflow_prior import Guidance

__all__ = [
    "PlannedRun",
    "autoencoder_config",
    "longest",
    "planned_runs",
    "row_guidance",
    "variant_config",
]

_SMALL = ConvolutionalConfig(widths=(32, 64, 128), num_blocks=1, num_groups=8)  # for 32 px


class PlannedRun(NamedTuple):
    """One training.

    Attributes:
        config: What is trained.
        until: Its last step.
    """

    config: TrainConfig
    until: int


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
        until = config.all_steps if variant.decoder_phase else config.steps
        if variant.two_stage and base.scale == "tiny":
            first = autoencoder_config(config)
            planned.append(PlannedRun(first, first.steps))
        if not experiment.has_no_flow(variant):
            planned.append(PlannedRun(config, until))
    return longest(planned)


def longest(runs: Iterable[PlannedRun]) -> list[PlannedRun]:
    """Return runs without those that are the beginning of another.

    Args:
        runs: Trainings, of which some go on with a decoder phase where others end.
    """
    kept: list[PlannedRun] = []
    for run in runs:
        same = [each for each in kept if each.config == run.config]
        if same:
            kept[kept.index(same[0])] = max(same[0], run, key=lambda each: each.until)
        else:
            kept.append(run)
    return kept


def autoencoder_config(config: TrainConfig) -> TrainConfig:
    """Return the first stage of a run in two: the autoencoder, beside a flow that learns nothing.

    That flow has the gate and the scale of the recipe, whatever the run's: so rows that differ in
    these share the stage, and a run's own configuration decides all of it.

    Args:
        config: The run.
    """
    convolutional = config.model.convolutional
    assert convolutional is not None
    recipe = RECIPES[config.scale](config.data.class_names, config.data.source).model.flow
    model = replace(
        config.model,
        flow=replace(config.model.flow, gate=recipe.gate, scale=recipe.scale),
        convolutional=replace(convolutional, fixed=False),
    )
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
    if variant.convolutional:
        shape = _SMALL if base.scale == "tiny" else ConvolutionalConfig()
        model = config.model.with_convolutions(replace(shape, fixed=variant.two_stage))
        config = replace(config, model=model, mask=MaskRatio(low=0.0, high=0.0))
    tokens = [] if variant.tokens is None else _token_settings(config, variant.tokens)
    return override(config, [*tokens, *variant.settings, f"seed={seed}"])


def row_guidance(variant: Variant, config: TrainConfig) -> Guidance | None:
    """Return what a row's samples are drawn with; None for no guidance.

    Args:
        variant: The row.
        config: Its configuration.
    """
    return config.own_guidance if variant.guidance == "recipe" else variant.guidance


def _token_settings(config: TrainConfig, share: Fraction) -> list[str]:
    """Change the number of latent tokens of every network.

    Feature decoders become transformers: an MLP's tokens must divide the patches.
    """
    count = int(config.model.encoder.num_patches * share)
    kinds = [f"model.features.{name}.kind=transformer" for name in config.model.features]
    return [f"model.num_latents={count}", *kinds]
