"""How long a joint step would take on GPUs, from the share of a card's peak that L's step has."""

from typing import NamedTuple

from mimflow_train.config import TrainConfig
from mimflow_train.device.costs import RunCost
from mimflow_train.device.hardware import Hardware
from mimflow_train.engine.sharding import shards_weights

__all__ = ["IMAGES", "StepTime", "step_time"]

IMAGES = 32  # of a worker, in the steps whose share of the peak is known
_FLOPS = 1.062e12  # of one of them, at scale L
_TRAINED = 649.75e6
_UPDATE_BYTES = 64  # AdamW, average, clipping and casts of a trained number: 42 GB of L's
_REACHED = 0.9  # of a memory's peak rate; both are in benchmarks/gpu_step.md
_BACKWARD = 2 / 3  # of the work, amid which DDP sends gradients
_LINK = 200e9  # bytes a second between the GPUs of a machine (NVLink), assumed


class StepTime(NamedTuple):
    """Seconds of a joint step, in parts that grow with the images of a worker or do not.

    Attributes:
        work: Forward and backward passes of a worker's images.
        update: Clipping, AdamW, average and casts, whatever the batch.
        waiting: All-reduce of the gradients, as far as it is not amid the backward pass.
    """

    work: float
    update: float
    waiting: float


def step_time(
    config: TrainConfig,
    cost: RunCost,
    card: Hardware,
    *,
    workers: int,
    share: float,
    flops: float,
) -> StepTime:
    """Return the time of a step; a card is as fast with a few images as with 32, which is too fast.

    Args:
        config: The run.
        cost: Of it.
        card: Of each worker.
        workers: Devices that share the batch.
        share: Of the card's peak that a whole step of 32 images of L comes to on one.
        flops: Floating point operations of an image.
    """
    update = _UPDATE_BYTES / (_REACHED * 1e12 * card.bandwidth)  # of each number
    pace = 1 / (share * 1e12 * card.tflops) - update * _TRAINED / (IMAGES * _FLOPS)
    work = pace * flops * config.global_batch / workers
    trained = cost.num_trained
    rounds, own = (3, trained / workers) if shards_weights(config, workers) else (2, trained)
    sending = rounds * (workers - 1) / workers * 4 * trained / _LINK  # float32 around a ring
    waiting = sending if config.cuda_graph else max(0.0, sending - _BACKWARD * work)
    return StepTime(work, update * own, waiting)
