"""How long a joint step would take on GPUs: as L's took on one H100, or at a share of a peak."""

from typing import NamedTuple

from mimflow_train.config import TrainConfig
from mimflow_train.device.costs import RunCost
from mimflow_train.device.hardware import Hardware, named_hardware
from mimflow_train.engine.sharding import shards_weights

__all__ = ["IMAGES", "StepTime", "image_as_measured", "image_at_share", "step_time"]

IMAGES = 32  # of a worker, in the steps that are known
_FLOPS = 1.062e12  # of one of them, at scale L
_TRAINED = 649.75e6
_UPDATE_BYTES = 64  # AdamW, average, clipping and casts of a trained number: 42 GB of L's
_REACHED = 0.9  # of a memory's peak rate; both are in benchmarks/gpu_step.md
# Seconds of 32 images of L on one H100, forward and backward, in benchmarks/gpu_step.md: products,
# convolutions and attention; and all else, which moves 1.7 times the bytes if layers are not
# compiled (benchmarks/step_traffic.md).
_CARD = "H100"
_PRODUCTS, _TRAFFIC, _NOT_COMPILED = 0.076, 0.072, 1.7
# The same as a whole where the CPU's launches set the pace, by (compile, cuda_graph, recompute).
_LAUNCHES = {
    (False, False, False): 0.259,
    (True, False, False): 0.214,
    (True, True, False): 0.0,
    (True, False, True): 0.382,
}
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


def image_at_share(card: Hardware, share: float, flops: float) -> float:
    """Return the seconds of an image, forward and backward.

    Args:
        card: Where.
        share: Of the card's peak that a whole step of 32 images of L comes to.
        flops: Floating point operations of an image.
    """
    pace = 1 / (share * 1e12 * card.tflops)
    return flops * (pace - _update_of_one(card) * _TRAINED / (IMAGES * _FLOPS))


def image_as_measured(
    config: TrainConfig, card: Hardware, flops: float, again: float = 0.0
) -> float | None:
    """Return the seconds of an image, forward and backward, as L's steps on one H100 have them.

    On another card its products take as long as the peaks' ratio says and all else as the ratio of
    the memories' rates, but no less than the CPU took for the launches.

    Args:
        config: How it is computed.
        card: Where.
        flops: Floating point operations of an image, of which an image of L has its share.
        again: Those that recomputing adds.

    Returns:
        None if nothing was measured that is computed so.
    """
    launches = _LAUNCHES.get((config.compile, config.cuda_graph, config.recompute))
    if launches is None:
        return None
    known = named_hardware(_CARD)
    traffic = _TRAFFIC if config.compile else _NOT_COMPILED * _TRAFFIC
    products = _PRODUCTS * known.tflops / card.tflops
    kernels = (products + traffic * known.bandwidth / card.bandwidth) * (1 + again / flops)
    return max(kernels, launches) * flops / (IMAGES * _FLOPS)


def step_time(
    config: TrainConfig, cost: RunCost, card: Hardware, *, workers: int, image: float
) -> StepTime:
    """Return the time of a step; a card is as fast with a few images as with 32, which is too fast.

    Args:
        config: The run.
        cost: Of it.
        card: Of each worker.
        workers: Devices that share the batch.
        image: Seconds of an image, forward and backward.
    """
    work = image * config.global_batch / workers
    trained = cost.num_trained
    rounds, own = (3, trained / workers) if shards_weights(config, workers) else (2, trained)
    sending = rounds * (workers - 1) / workers * 4 * trained / _LINK  # float32 around a ring
    waiting = sending if config.cuda_graph else max(0.0, sending - _BACKWARD * work)
    return StepTime(work, _update_of_one(card) * own, waiting)


def _update_of_one(card: Hardware) -> float:
    return _UPDATE_BYTES / (_REACHED * 1e12 * card.bandwidth)
