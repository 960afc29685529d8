"""The two-stage baseline of Table 1: an autoencoder that is trained alone, then a flow on it."""

import torch
from torch import Tensor, nn

from mimflow_train.checkpoint import (
    fingerprint,
    latest_checkpoint,
    load_state,
    snapshot,
    write_checkpoint,
)
from mimflow_train.config import TrainConfig
from mimflow_train.config_file import write_config
from mimflow_train.console import say
from mimflow_train.context import StopRequest
from mimflow_train.data.images import LabelledImages, to_unit
from mimflow_train.data.order import EpochOrder, EvenClassOrder, image_order
from mimflow_train.draws import draw_step, drop_labels, mirror
from mimflow_train.lock import locked_in_turn
from mimflow_train.micro_batches import precision
from mimflow_train.model import MIMFlow
from mimflow_train.reconstruction import encode, spread
from mimflow_train.reproduce.session import Session
from mimflow_train.reproduce.trained import InterruptedRunError, Trained, trained
from mimflow_train.reproduce.variants import autoencoder_config
from mimflow_train.state import State, TrainState, take_step
from tarflow_prior import nll_per_dim

__all__ = ["train_two_stages"]

_SAVE_EVERY = 250
_SCALE_IMAGES = 2048
_Order = EpochOrder | EvenClassOrder


def train_two_stages(session: Session, config: TrainConfig) -> Trained:
    """Train autoencoder and flow one after the other; either goes on where it was stopped.

    Args:
        session: Where runs are kept, and the device.
        config: Sizes of all networks, and how long either stage is.
    """
    first = trained(session, autoencoder_config(session.base, config))
    std = _latent_std(first, session.data)
    run_dir = session.run_dir(config, "flow")
    with locked_in_turn(run_dir):
        write_config(config, run_dir)
        folder = latest_checkpoint(run_dir, say)
        state: State = (
            _beginning(first.model, config, session.device)
            if folder is None
            else load_state(folder, config, session.device)
        )
        assert isinstance(state, TrainState)
        _train_flow(session, state, std)
        done = latest_checkpoint(run_dir, say)
        assert done is not None
        return Trained(state.chosen, config, fingerprint(done), std)


def _beginning(autoencoder: MIMFlow, config: TrainConfig, device: torch.device) -> TrainState:
    state = TrainState(config, device)
    for model in (state.model, state.ema):
        model.encoder.load_state_dict(autoencoder.encoder.state_dict())
        model.decoder.load_state_dict(autoencoder.decoder.state_dict())
    return state


def _latent_std(first: Trained, data: LabelledImages) -> float:
    shown = spread(len(data.train.labels), _SCALE_IMAGES).tolist()
    z = encode(first.model, first.config, data.train.stack(shown), "latent scale").z
    return float(z.std())


def _train_flow(session: Session, state: TrainState, std: float) -> None:
    config, run_dir = state.config, session.run_dir(state.config, "flow")
    labels = session.data.train.labels
    order = image_order(labels, config.seed, even_classes=config.data.even_classes)
    if state.step < config.steps:
        say(f"Training a flow on fixed latents to step {config.steps} in {run_dir}")
    stop = StopRequest()
    with stop.listening():
        _learn(session, state, std, order=order, stop=stop)
    if stop.received is not None:
        raise InterruptedRunError(stop.received)


def _learn(
    session: Session, state: TrainState, std: float, *, order: _Order, stop: StopRequest
) -> None:
    """Train the flow to its last step, or until a signal; saved either way."""
    config, model = state.config, state.model
    while state.step < config.steps:
        z, label = _latents(session, state, order, std)
        with precision(session.device, config.precision):
            loss = nll_per_dim(model.flow(z, label)).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.flow.parameters(), config.optim.clip_norm)
        take_step(state.optimizer, config.optim, state.step, config.steps)
        state.average(config.optim.ema_decay)
        state.step += 1
        asked = stop.received is not None
        if asked or state.step % _SAVE_EVERY == 0 or state.step == config.steps:
            write_checkpoint(snapshot(state), config, session.run_dir(config, "flow"))
        if asked:
            break


@torch.no_grad()
def _latents(
    session: Session, state: TrainState, order: _Order, std: float
) -> tuple[Tensor, Tensor]:
    """Return the latents of a step's images, with the noise of training, and their classes."""
    config, train, device = state.config, session.data.train, session.device
    start = state.step * config.global_batch
    chosen = [order[position] for position in range(start, start + config.global_batch)]
    rows = slice(0, config.global_batch)
    draws = draw_step(config, state.step, rows)
    image = mirror(to_unit(train.stack(chosen)), config, state.step, rows)
    with precision(device, config.precision):
        posterior = state.model.encoder(image.to(device), draws.masked.to(device))
    z = posterior.perturb(draws.noise.to(device)).float() / std
    label = drop_labels(train.labels[torch.tensor(chosen)], draws.dropped)
    return z, label.to(device)
