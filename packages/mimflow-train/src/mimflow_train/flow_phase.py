"""One step of a flow alone, on the latents of a fixed autoencoder (STARFlow's second stage)."""

import torch
from torch import nn

from mimflow_train.joint_phase import JointPhase
from mimflow_train.micro_batches import MicroBatch
from mimflow_train.objective import Objective
from tarflow_prior import nll_per_dim

__all__ = ["FlowPhase"]


class FlowPhase(JointPhase):
    """The flow learns; encoder and decoder stay as they are."""

    @property
    def learner(self) -> nn.Module:
        """The flow."""
        return self.state.model.flow

    def objective(self, part: MicroBatch) -> Objective:
        """Return the NLL of a micro-batch's noisy latents (Eq. 4)."""
        with torch.no_grad():
            posterior = self.state.model.encoder(part.image, part.draws.masked)
        self.mean = posterior.mean
        nll = nll_per_dim(self.module(posterior.perturb(part.draws.noise), part.label)).mean()
        return Objective(self.config.loss.nll * nll, {"nll": nll})
