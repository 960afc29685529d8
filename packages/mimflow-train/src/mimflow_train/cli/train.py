"""``mimflow-train``: trains MIMFlow and leaves a run folder with pictures and scores."""

import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mimflow_train.cli.build_config import build_config
from mimflow_train.cli.command import leave, parse, run
from mimflow_train.cli.failure_note import failure_noted, forget_failure
from mimflow_train.cli.preflight import (
    choose_launch,
    idle_gpus,
    require_equal_shares,
    require_packages,
    too_many_here,
)
from mimflow_train.config import TrainConfig
from mimflow_train.data.layout import require_apart
from mimflow_train.device.machine import (
    choose_device,
    computing_device,
    require_gpu,
    require_gpu_for_graph,
    torchrun_place,
)
from mimflow_train.engine.launch import Launch
from mimflow_train.engine.workers import Workers
from mimflow_train.errors import ConfigError
from mimflow_train.plan import Plan, checkpoint_interval
from mimflow_train.storage.lock import locked
from mimflow_train.storage.run_folder import (
    begins_with,
    forget_end,
    last_step,
    prepare_run,
    require_begun,
    require_own,
    steps_done,
    told_of_init,
)
from mimflow_train.telemetry.console import say
from mimflow_train.telemetry.sinks import require_wandb

PROGRAM = "mimflow-train"


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train MIMFlow: masked encoder, flow prior and decoder, jointly.

    Without an option it trains the tiny scale on emoji, on this machine, in minutes. The same
    command again continues the run.
    """

    scale: str | None = None
    """Recipe: tiny (32 px), or S, B, L, XL, XXL (256 px); L is the paper's model. Tiny if neither
    this nor --config says."""
    data: str | None = None
    """A folder with one sub-folder of images for each class, or of images alone; such a folder as
    tar or tars; or `emoji`, tiny's default."""
    out: Path | None = None
    """Run folder; runs/SCALE-DATA if not given."""
    steps: int | None = None
    """Optimiser steps of the joint phase, instead of the recipe's; the decoder's are `--set
    decoder_phase.steps=N`."""
    checkpoint_every: int | None = None
    """Steps between checkpoints, each with a picture; 250 at tiny, 2,500 at S to XXL."""
    milestone_every: int = 50_000
    """Steps between weights that are kept for good, in RUN/milestones."""
    phase: Literal["all", "joint", "decoder"] = "all"
    """Train everything jointly, then the decoder alone; or one of the two."""
    seed: int | None = None
    """Seed of everything random; 0 if neither this nor --config says."""
    workers: str = "1"
    """Devices to train on; more than one run under Ray Train, MIN-MAX on what a cluster has."""
    ray_address: str | None = None
    """Ray cluster to train on, HOST:PORT or auto (RAY_ADDRESS); this machine if not given."""
    engine: Literal["auto", "local", "torchrun", "ray"] = "auto"
    """Run in this process, among torchrun's, or under Ray Train; auto takes torchrun's if it is
    there and decides by the number of workers otherwise."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Kind of device; auto takes CUDA where there is one."""
    init: Path | None = None
    """Begin a new run with the weights of another: its folder, or a .safetensors file (a milestone,
    or mimflow-inspect --export)."""
    resume: Literal["auto", "never", "must"] = "auto"
    """Continue the run folder if there is one, start it anew, or refuse to start anew."""
    log: Literal["files", "wandb"] = "files"
    """Where the numbers go: the run folder (JSONL, TensorBoard), or Weights & Biases as well."""
    micro_batch: str | None = None
    """Images per forward pass of a worker, or auto: as many as its GPU holds."""
    dry_run: bool = False
    """Say what the run would cost and which weights it would need, and end."""
    hardware: str | None = None
    """Card that the dry run estimates for, such as H100; the one that is there if not given."""
    config: Path | None = None
    """Values of the recipe in a .toml or .json file, or all those of another run by its folder;
    options and --set go before."""
    set: Annotated[list[str], tyro.conf.UseAppendAction] = dataclasses.field(default_factory=list)
    """Change one value of the recipe, such as optim.lr=2e-4; repeatable."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    options = parse(TrainOptions, arguments, PROGRAM)
    leave(lambda: run(lambda: _main(options), PROGRAM))


def _main(options: TrainOptions) -> int:
    workers = Workers.parse(options.workers)
    rank, count = torchrun_place() or (0, workers.most)
    known = None if options.dry_run else options.out
    if rank == 0 and known is not None:
        forget_failure(known)  # before peers may leave one
    with failure_noted(known, is_held=rank > 0):
        _check_options(options)
        config = build_config(options)
        _require_trainable(config)
        require_equal_shares(config, workers)
        if options.dry_run:
            return _dry_run(options, config, count)
        require_packages(config.data.source)
        launch = choose_launch(options.engine, workers, options.device, address=options.ray_address)
        if launch.device == "cpu":
            require_gpu(config.scale, options.device)
        if config.cuda_graph:
            require_gpu_for_graph(launch.device, sharded=config.shard and count > 1)
        if options.log == "wandb":
            require_wandb()
        idle = idle_gpus(config, launch)
        if idle and options.engine == "auto":
            say(idle)
        run_dir = _run_dir(options, config)
        if rank == 0 and known is None:
            forget_failure(run_dir)
        if config.data.source != "emoji":
            require_apart(run_dir, Path(config.data.source))
    if rank > 0:  # it waits for rank 0 where they meet
        with failure_noted(run_dir, is_held=True):
            _require_weights(options, config, run_dir)
            plan = _plan(options, config, last_step(config, run_dir, options.phase))
            launch.train(config, run_dir, plan)
        return 0
    require_begun(run_dir, options.resume)
    with locked(run_dir), failure_noted(run_dir, is_held=True):
        _begin(options, config, run_dir)
        return _train_and_finish(options, config, run_dir, launch)


def _run_dir(options: TrainOptions, config: TrainConfig) -> Path:
    name = Path(config.data.source).name
    return (options.out or Path("runs") / f"{config.scale}-{name}").resolve()


def _check_options(options: TrainOptions) -> None:
    for name in ("checkpoint_every", "milestone_every"):
        given = getattr(options, name)
        if given is not None and given < 1:
            raise ConfigError(f"Expected --{name.replace('_', '-')} >= 1; got {given}.")
    if options.hardware is not None and not options.dry_run:
        raise ConfigError(
            f"Expected --hardware {options.hardware} with --dry-run, which estimates for it; got "
            "it alone. Add --dry-run, or leave it out."
        )
    if options.resume == "never" and options.phase == "decoder":
        raise ConfigError(
            "Expected --resume auto or must with --phase decoder, which goes on from a joint phase;"
            " got never. To have that phase alone anew, remove its checkpoints from a copy."
        )


def _require_trainable(config: TrainConfig) -> None:
    """Raise if the command cannot train the networks, or not judge what it would make of them."""
    if config.model.is_autoencoder_fixed:
        raise ConfigError(
            "Expected model.convolutional.fixed as false, since nothing trains a fixed autoencoder "
            "here; got true. `mimflow-reproduce table1` trains both stages."
        )
    if config.model.encoder.bottleneck == "mae":
        raise ConfigError(
            "Expected the bottleneck learnable-tokens or simmim; got mae, which encodes no whole "
            "image, so that its run cannot be judged. `mimflow-reproduce bottlenecks` trains it."
        )


def _dry_run(options: TrainOptions, config: TrainConfig, count: int) -> int:
    """Say what the run would cost on so many workers; return the exit code."""
    if config.cuda_graph:  # on what --hardware names, or on another GPU
        require_gpu_for_graph("cuda", sharded=config.shard and count > 1)
    out = _run_dir(options, config)
    if options.init is not None and begins_with(options.init, out, options.resume):
        from mimflow_train.storage.init import require_weights_that_fit

        require_weights_that_fit(options.init, config)
    from mimflow_train.cli.dry_run import cost_table

    table = cost_table(
        config,
        count,
        options.phase,
        plan=_plan(options, config, config.steps if options.phase == "joint" else config.all_steps),
        out=out,
        hardware=options.hardware,
    )
    sys.stdout.write(table)
    elsewhere = options.hardware or options.ray_address or torchrun_place()
    too_many = "" if elsewhere else too_many_here(count, options.device)
    sys.stdout.write(f"  {too_many}\n" if too_many else "")
    return 0


def _plan(options: TrainOptions, config: TrainConfig, until: int) -> Plan:
    return Plan(
        until=until,
        checkpoint_every=options.checkpoint_every or checkpoint_interval(config.scale),
        milestone_every=options.milestone_every,
        log=options.log,
    )


def _require_weights(options: TrainOptions, config: TrainConfig, run_dir: Path) -> None:
    """Raise if a frozen network of what is left of the run cannot be had."""
    from mimflow_train.teachers import require_weights  # imports torch

    until = last_step(config, run_dir, options.phase)
    is_joint = options.resume == "never" or steps_done(run_dir) < config.steps
    require_weights(config, joint_phase=is_joint, decoder_phase=until > config.steps)


def _begin(options: TrainOptions, config: TrainConfig, run_dir: Path) -> None:
    """Make the run folder, after all that can be checked without it, with weights of another."""
    require_own(config, run_dir, options.resume)
    init = options.init if begins_with(options.init, run_dir, options.resume) else None
    _require_weights(options, config, run_dir)
    if init is None:
        prepare_run(config, run_dir, options.resume)
        return
    from mimflow_train.storage.checkpoint import write_checkpoint
    from mimflow_train.storage.init import first_snapshot

    first = first_snapshot(init, config)
    prepare_run(config, run_dir, options.resume, lambda: write_checkpoint(first, config, run_dir))
    say(told_of_init(first.init or {}))


def _train_and_finish(
    options: TrainOptions, config: TrainConfig, run_dir: Path, launch: Launch
) -> int:
    """Train, then judge what came of it; return the exit code."""
    began = time.monotonic()
    (run_dir / "bad_images.txt").unlink(missing_ok=True)  # it is found out anew
    plan = _plan(options, config, last_step(config, run_dir, options.phase))
    if steps_done(run_dir) < plan.until:
        forget_end(run_dir)
        _warn_of_disk(config, run_dir, plan)
    say(f"{config.scale}: {plan.until} steps of {config.global_batch} images, in {run_dir}")
    if launch.address and launch.device == "cuda" and choose_device("auto") == "cpu":
        say(
            "Warning: the cluster trains on GPUs and this machine has none, so that its CPU will "
            "judge the run, which takes long. Run the command on a node with a GPU."
        )
    stopped = launch.train(config, run_dir, plan)
    if stopped is not None:
        say(f"Saved in {run_dir}. Run the same command again to go on.")
        return 128 + stopped
    say("Trained. Judging the result ...")

    from mimflow_train.cli.summary import summary
    from mimflow_train.evaluation.finish import finish

    wanted = "auto" if launch.address else options.device  # this machine is not the cluster
    try:
        scores, before = finish(config, run_dir, computing_device(wanted))
    except KeyboardInterrupt:
        say(f"Interrupted; {run_dir} is trained. Run the same command again to judge it.")
        return 130
    sys.stdout.write(summary(scores, before, config, run_dir, time.monotonic() - began))
    return 0


def _warn_of_disk(config: TrainConfig, run_dir: Path, plan: Plan) -> None:
    from mimflow_train.cli.disk import shortage

    short = shortage(config, run_dir, plan)
    if short:
        say(short)


if __name__ == "__main__":
    main()
