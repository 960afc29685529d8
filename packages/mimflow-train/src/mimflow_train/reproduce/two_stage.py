"""Two stages, as STARFlow's: a fixed convolutional autoencoder, a flow on it, then the decoder."""

import torch

from mimflow_train.config import ConvolutionalConfig, TrainConfig
from mimflow_train.config.file import write_config
from mimflow_train.convolutional import SD_VAE_FILE, read_sd_vae
from mimflow_train.evaluation.class_probe import encode_means
from mimflow_train.evaluation.selection import spread
from mimflow_train.frozen.weights import find_weights
from mimflow_train.model import MIMFlow
from mimflow_train.reproduce.session import Session
from mimflow_train.reproduce.trained import Trained, trained
from mimflow_train.reproduce.variants import autoencoder_config
from mimflow_train.state import TrainState
from mimflow_train.storage.checkpoint import snapshot, write_checkpoint
from mimflow_train.storage.lock import locked_in_turn
from mimflow_train.storage.run_folder import checkpoints

__all__ = ["fixed_autoencoder", "train_two_stages"]

_SCALE_IMAGES = 2048


def train_two_stages(session: Session, config: TrainConfig, *, decoder_phase: bool) -> Trained:
    """Return a flow that was trained on a fixed autoencoder; each stage is made once.

    The autoencoder is SD-VAE with its published weights where it has that shape, and is else
    trained first, without the flow. Noise is added to latents of unit variance, so that the decoder
    meets more of it than before: the decoder phase is where it learns to.

    Args:
        session: Where runs are kept, and the device.
        config: A run whose autoencoder is fixed.
        decoder_phase: Whether the decoder is trained on, against a discriminator.

    Raises:
        WeightsError: If SD-VAE's weights cannot be had.
    """
    run_dir = session.run_dir(config)
    if not checkpoints(run_dir):
        state = _beginning(session, config)
        with locked_in_turn(run_dir):
            if not checkpoints(run_dir):
                write_config(config, run_dir)
                write_checkpoint(snapshot(state), config, run_dir)
    return trained(session, config, decoder_phase=decoder_phase)


def fixed_autoencoder(session: Session, config: TrainConfig) -> Trained:
    """Return the first stage alone, beside a flow that has learned nothing; it has no checkpoint.

    Args:
        session: Where runs are kept, and the device.
        config: A run whose autoencoder is fixed.

    Raises:
        WeightsError: If SD-VAE's weights cannot be had.
    """
    with torch.random.fork_rng(devices=[]):
        model = MIMFlow(config.trained_model).to(session.device)
    _fill(model, session, config)
    return Trained(model.eval().requires_grad_(requires_grad=False), config, checkpoint="")


def _beginning(session: Session, config: TrainConfig) -> TrainState:
    """Return a state at step 0 that holds the autoencoder."""
    state = TrainState(config, session.device)
    _fill(state.model, session, config)
    state.ema.load_state_dict(state.model.state_dict())
    return state


def _fill(model: MIMFlow, session: Session, config: TrainConfig) -> None:
    """Put in the autoencoder, its latents scaled to unit variance."""
    if config.model.convolutional == ConvolutionalConfig(fixed=True):
        read_sd_vae(model.encoder, model.decoder, find_weights(SD_VAE_FILE))
    else:
        first = trained(session, autoencoder_config(config)).model
        model.encoder.load_state_dict(first.encoder.state_dict())
        model.decoder.load_state_dict(first.decoder.state_dict())
    deviation = _deviation(session, model)
    for part in (model.encoder, model.decoder):
        part.get_buffer("scale").fill_(deviation)


def _deviation(session: Session, model: MIMFlow) -> float:
    train = session.data.train
    shown = spread(len(train.labels), _SCALE_IMAGES).tolist()
    return float(encode_means(model, train, shown).mean.std())
