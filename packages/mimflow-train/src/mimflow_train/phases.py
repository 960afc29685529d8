"""What the loop asks of a phase, and which phase a state belongs to."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from mimflow_train.config import TrainConfig
from mimflow_train.decoder_phase import DecoderPhase
from mimflow_train.draws import Draws
from mimflow_train.engine.context import Context
from mimflow_train.flow_phase import FlowPhase
from mimflow_train.joint_phase import JointPhase
from mimflow_train.micro_batches import Batch
from mimflow_train.state import DecoderState, State
from mimflow_train.teachers import Targets

__all__ = ["Phase", "phase_of"]


@runtime_checkable
class Phase(Protocol):
    """One optimiser step; either ``update`` or ``skip`` follows ``gradients`` and ``clip``."""

    def gradients(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Fill the gradients of the trained weights; return the mean of each term."""

    def clip(self) -> dict[str, Tensor]:
        """Clip the gradients; return their norms before."""

    def update(self) -> dict[str, Tensor]:
        """Move the weights and their average, drop the gradients; return what is known since."""

    def skip(self) -> None:
        """Drop the gradients."""

    def latents(self) -> dict[str, float]:
        """Return what a report says of this worker's newest latents."""


def phase_of(state: State, context: Context, config: TrainConfig, targets: Targets) -> Phase:
    """Return the phase that a state belongs to."""
    if isinstance(state, DecoderState):
        return DecoderPhase(state, context, config, targets)
    if config.model.is_autoencoder_fixed:
        return FlowPhase(state, context, config, targets)
    return JointPhase(state, context, config, targets)
