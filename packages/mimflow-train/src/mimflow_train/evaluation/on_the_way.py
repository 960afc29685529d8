"""What held-out images say while a run is still training."""

import torch

from genmetrics import psnr
from mimflow_train.config import TrainConfig
from mimflow_train.data.images import ChosenImages, Split, in_batches
from mimflow_train.errors import DataError
from mimflow_train.evaluation.reconstruction import decoded, encode
from mimflow_train.evaluation.selection import CHUNK, spread
from mimflow_train.model import MIMFlow
from mimflow_train.plan import Plan
from mimflow_train.state import State
from mimflow_train.telemetry.console import say
from tarflow_prior import nll_per_dim

__all__ = ["HeldOut", "held_out_values"]

_MOST = 256


class HeldOut:
    """Looks at held-out images with the report of every planned checkpoint.

    Not where weights are sharded, which all workers would have to gather.

    Args:
        config: The run.
        images: Those that training never sees.
        plan: When checkpoints are planned.
    """

    def __init__(self, config: TrainConfig, images: Split, plan: Plan) -> None:
        self._config, self._images, self._plan = config, images, plan
        self._is_readable, self._is_told = True, False

    def __call__(self, state: State) -> dict[str, float]:
        """Return :func:`held_out_values` of the weights that samples are made with, or nothing."""
        is_planned = state.step % self._plan.checkpoint_every == 0 or state.step == state.end
        if not is_planned or state.is_sharded or not self._is_readable:
            return {}
        try:
            return held_out_values(state.chosen, self._config, self._images)
        except torch.OutOfMemoryError:  # there may be room at the next
            self._warn("The GPU has no room for them beside training.")
        except DataError as error:  # training needs none of these images
            self._warn(str(error))
            self._is_readable = False
        return {}

    def _warn(self, why: str) -> None:
        if not self._is_told:
            say(f"Warning: held-out images are not looked at on the way. {why}")
        self._is_told = True


@torch.no_grad()
def held_out_values(model: MIMFlow, config: TrainConfig, held_out: Split) -> dict[str, float]:
    """Judge a model by the same held-out images each time, at most 256, spread evenly.

    Args:
        model: Usually the averaged weights.
        config: The run; its seed decides masks and noise.
        held_out: Images that training never sees.

    Returns:
        ``held_out_nll``, a mean in nats per latent dimension as the loss's ``nll``, and
        ``held_out_psnr`` of their reconstructions in dB, hidden in part.
    """
    chosen = spread(len(held_out.labels), _MOST)
    images = ChosenImages(held_out.images, chosen.tolist())
    z = encode(model, config, images, "held out on the way").z
    label = held_out.labels[chosen].to(z.device)
    parts = zip(z.split(CHUNK), label.split(CHUNK), strict=True)
    nll = torch.cat([nll_per_dim(model.flow(*part)) for part in parts])
    pairs = zip(decoded(model, z), in_batches(images, CHUNK), strict=True)
    decibels = torch.cat([psnr(*pair) for pair in pairs])
    return {"held_out_nll": float(nll.mean()), "held_out_psnr": float(decibels.mean())}
