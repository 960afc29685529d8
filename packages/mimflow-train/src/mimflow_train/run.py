"""From a configuration to a finished run folder: images, training, pictures, scores."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from mim_encoder import mask_image
from mimflow_train.checkpoint import (
    joint_checkpoint,
    latest_checkpoint,
    load_state,
    save_checkpoint,
)
from mimflow_train.config import TrainConfig
from mimflow_train.console import Progress, say
from mimflow_train.context import Context, LocalContext, StopRequest, TorchrunContext
from mimflow_train.data.emoji import emoji_images
from mimflow_train.data.folder import folder_images
from mimflow_train.data.images import LabelledImages, to_unit
from mimflow_train.data.layout import read_layout
from mimflow_train.draws import generator
from mimflow_train.errors import StorageError
from mimflow_train.evaluate import Evaluation, evaluate, generate
from mimflow_train.events import Recorder
from mimflow_train.loop import train
from mimflow_train.model import MIMFlow
from mimflow_train.pictures import save_grid, to_bytes
from mimflow_train.reconstruction import (
    Reconstruction,
    decode,
    encode,
    evaluate_reconstruction,
    spread,
)
from mimflow_train.report import write_report
from mimflow_train.state import DecoderState, State, TrainState

__all__ = [
    "Saver",
    "finish",
    "load_data",
    "restore",
    "run_local",
    "run_torchrun",
    "train_phases",
    "trained_model",
]

_COLUMNS, _ROWS = 12, 12
_ALLOWED_FAILURES = 3


def load_data(
    config: TrainConfig, run_dir: Path | None = None, warn: Callable[[str], None] = say
) -> LabelledImages:
    """Return the images of a run.

    Args:
        config: The run.
        run_dir: Receives the list of undecodable images; None to keep none.
        warn: Receives a sentence for each of them.
    """
    size = config.model.encoder.image_size
    if config.data.source == "emoji":
        return emoji_images(size)
    bad_list = None if run_dir is None else run_dir / "bad_images.txt"
    layout = read_layout(Path(config.data.source))
    return folder_images(layout, size, bad_list=bad_list, warn=warn)


def restore(config: TrainConfig, run_dir: Path, device: torch.device) -> State:
    """Return the state of the newest good checkpoint, or a new one if the run has none.

    Raises:
        StorageError: If there are checkpoints and all are damaged.
    """
    folder = latest_checkpoint(run_dir, say)
    return TrainState(config, device) if folder is None else load_state(folder, config, device)


def train_phases(
    context: Context,
    state: State,
    data: LabelledImages,
    *,
    until: int,
    save_every: int,
    save: Callable[[State], object],
) -> State:
    """Train what is left of the joint phase, then of the decoder phase.

    Args:
        context: This worker among its peers.
        state: Where to start.
        data: Images; only ``data.train`` is looked at.
        until: ``config.steps`` to end with the joint phase, ``config.all_steps`` to go on.
        save_every: Steps between calls of ``save``.
        save: Called on every rank, also at the end of a phase, with the state.

    Returns:
        The state at ``until``, or where the context asked to stop.
    """
    config = state.config
    train(context, config, data, state=state, save_every=save_every, save=save)
    if isinstance(state, TrainState) and config.steps == state.step < until:
        state = DecoderState.after(state)
        train(context, config, data, state=state, save_every=save_every, save=save)
    return state


def run_local(
    config: TrainConfig, run_dir: Path, device: torch.device, checkpoint_every: int, until: int
) -> int | None:
    """Train in this process until done or asked to stop.

    Args:
        config: The run.
        run_dir: The run folder.
        device: Where to train.
        checkpoint_every: Steps between checkpoints.
        until: Step to end at, as for :func:`train_phases`.

    Returns:
        The signal that ended the run early, or None.
    """
    stop = StopRequest()
    with stop.listening():
        data = load_data(config, run_dir)
        state = restore(config, run_dir, device)
        with _reporting(run_dir, state.step, until) as report:
            state = train_phases(
                LocalContext(device, report, stop),
                state,
                data,
                until=until,
                save_every=checkpoint_every,
                save=Saver(config, data, run_dir),
            )
    return stop.received if state.step < until else None


def run_torchrun(
    config: TrainConfig, run_dir: Path, kind: str, checkpoint_every: int, until: int
) -> int | None:
    """Train as one of the workers that torchrun started, as :func:`run_local` does alone.

    Args:
        config: The run.
        run_dir: The run folder, which all workers see.
        kind: ``cpu`` or ``cuda``.
        checkpoint_every: Steps between checkpoints.
        until: Step to end at, as for :func:`train_phases`.

    Returns:
        The signal that ended the run early, or None.
    """
    stop = StopRequest()
    with stop.listening(), contextlib.ExitStack() as stack:
        context = TorchrunContext(kind, lambda *_: None, stop)
        stack.enter_context(context.joined())
        data = load_data(config, run_dir if context.rank == 0 else None)
        state = restore(config, run_dir, context.device)
        if context.rank == 0:
            report = stack.enter_context(_reporting(run_dir, state.step, until))
            context = TorchrunContext(kind, report, stop)
        saver = Saver(config, data, run_dir)

        def save(state: State) -> None:
            if context.rank == 0:
                saver(state)
            dist.barrier()

        state = train_phases(
            context, state, data, until=until, save_every=checkpoint_every, save=save
        )
    return stop.received if state.step < until else None


@contextmanager
def _reporting(
    run_dir: Path, start: int, steps: int
) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Yield a function that records the values of a step and shows them."""
    recorder, progress = Recorder(run_dir, start), Progress(start, steps)

    def report(step: int, values: Mapping[str, float]) -> None:
        recorder.write(step, values)
        progress.show(step, values)

    try:
        yield report
    finally:
        progress.close()
        recorder.close()


class Saver:
    """Writes checkpoints and sample grids; a disk that is full twice does not end a run.

    Args:
        config: The run.
        data: Images; only its classes are looked at.
        run_dir: The run folder.
    """

    def __init__(self, config: TrainConfig, data: LabelledImages, run_dir: Path) -> None:
        self.config, self.data, self.run_dir = config, data, run_dir
        self.failures = 0

    def __call__(self, state: State) -> None:
        """Save a state, with a grid of samples.

        Raises:
            StorageError: At the third failure in a row, and at the last step of a phase.
        """
        try:
            save_checkpoint(state, self.config, self.run_dir)
            path = self.run_dir / "samples" / f"step_{state.step:08d}.png"
            _sample_grid(state.chosen, self.config, self.data, path)
            self.failures = 0
        except (StorageError, OSError) as error:
            self.failures += 1
            if self.failures == _ALLOWED_FAILURES or state.step == state.end:
                raise StorageError(str(error)) from error
            say(f"Warning: {error} Training goes on; earlier checkpoints are as they were.")


def finish(
    config: TrainConfig, run_dir: Path, device: torch.device
) -> tuple[Evaluation, Reconstruction | None]:
    """Write the pictures and the scores of a trained run.

    Returns:
        The scores, and reconstruction as it was before the decoder phase, if there was one.
    """
    model = trained_model(config, run_dir, device)
    data = load_data(config, run_dir, lambda _: None)
    if data.attribution:
        (run_dir / "ATTRIBUTION.txt").write_text(data.attribution)
    _sample_grid(model, config, data, run_dir / "samples.png")
    _reconstruction_grid(model, config, data, run_dir / "reconstructions.png")
    scores = evaluate(model, config, data)
    before = _before_decoder_phase(config, run_dir, data, device)
    summary = dataclasses.asdict(scores)
    if before is not None:
        summary["before_decoder_phase"] = dataclasses.asdict(before)
    (run_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    write_report(run_dir)
    return scores, before


def _before_decoder_phase(
    config: TrainConfig, run_dir: Path, data: LabelledImages, device: torch.device
) -> Reconstruction | None:
    folder = joint_checkpoint(config, run_dir)
    newest = latest_checkpoint(run_dir, lambda _: None)
    if newest is None or newest == folder or not folder.exists():
        return None
    return evaluate_reconstruction(load_state(folder, config, device).chosen, config, data)


def trained_model(config: TrainConfig, run_dir: Path, device: torch.device) -> MIMFlow:
    """Return a run's model with the weights that ``config.weights`` names.

    Raises:
        StorageError: If the run has no good checkpoint.
    """
    folder = latest_checkpoint(run_dir, say)
    if folder is None:
        raise StorageError(f"Expected a checkpoint in {run_dir}; there is none. Train it first.")
    return load_state(folder, config, device).chosen


def _sample_grid(model: MIMFlow, config: TrainConfig, data: LabelledImages, path: Path) -> None:
    shown = spread(len(data.class_names), _ROWS)
    label = shown.repeat_interleave(_COLUMNS)
    images = to_bytes(generate(model, config, label, generator(config.seed, "sample grid"))).cpu()
    save_grid(images.split(_COLUMNS), [data.class_names[each] for each in shown.tolist()], path)


def _reconstruction_grid(
    model: MIMFlow, config: TrainConfig, data: LabelledImages, path: Path
) -> None:
    """Write held-out images: original, what the encoder saw, what the decoder made of it."""
    chosen = torch.linspace(0, len(data.held_out.labels) - 1, 2 * _COLUMNS).long().tolist()
    pixels = data.held_out.stack(chosen)
    encoding = encode(model, config, pixels, "reconstruction grid")
    decoded = decode(model, encoding.z)
    seen = mask_image(to_unit(pixels), encoding.masked, config.model.encoder.patch_size)
    rows = []
    for part in (slice(None, _COLUMNS), slice(_COLUMNS, None)):
        rows += [pixels[part], to_bytes(seen)[part], decoded[part]]
    save_grid(rows, ["image", "masked", "decoded"] * 2, path)
