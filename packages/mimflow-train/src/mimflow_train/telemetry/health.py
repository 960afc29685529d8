"""How a run fares besides its losses: speed, waiting, memory, use of the device, latents."""

import functools
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mimflow_train.config import TrainConfig
from mimflow_train.device.costs import training_flops
from mimflow_train.device.hardware import detect

__all__ = ["Health", "latent_values"]

_GIB = 2**30
_DEAD_BELOW = 0.1  # standard deviation over images, in units of the noise's

Item = TypeVar("Item")


class Health:
    """Counts and times the steps between two reports; nothing of it needs a checkpoint.

    It never waits for a GPU: numbers are taken in :meth:`line`, after the loop has read the losses
    and has waited for the device anyway. The first step of all is counted, but left out of speed
    and waiting once there are others: loaders start in it, networks are compiled and captured.

    Args:
        config: The run.
        device: Where this worker computes.
        workers: Workers in all.
        clock: Seconds that pass.
    """

    def __init__(
        self,
        config: TrainConfig,
        device: torch.device,
        workers: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._device, self._workers, self._clock = config, device, workers, clock
        self._hardware = detect(device)
        self._begin()
        self._is_first = True

    def _begin(self) -> None:
        self._began = self._clock()
        self._waited, self._steps, self._skipped = 0.0, 0, 0
        self._left_out = (0.0, 0.0, 0)  # seconds, of them waited, and steps

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Leave the time spent in a block, such as saving, out of the next line's speed."""
        began = self._clock()
        try:
            yield
        finally:
            self._began += self._clock() - began

    def fetched(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield the batches, counting the time that each takes to come as waiting."""
        began = self._clock()
        for batch in batches:
            self._waited += self._clock() - began
            yield batch
            began = self._clock()

    def after_step(self, *, skipped: bool) -> None:
        """Count a step.

        Args:
            skipped: Whether its gradient was not finite and the weights stayed.
        """
        self._steps += 1
        self._skipped += skipped
        if self._is_first:
            self._is_first = False
            self._left_out = (self._clock() - self._began, self._waited, 1)

    def line(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the values of a report with this worker's health since the last one.

        Args:
            values: Terms of the step, with ``nll`` in the joint phase.

        Returns:
            Besides the values: ``steps_per_second``; ``images_per_second`` of all workers;
            ``data_wait``, a share of the time; ``skipped_steps``; ``cuda_memory_gib``, the most
            that tensors took so far, or ``process_memory_gib``, the most that the process took;
            ``rate_bits`` an image where there is a ``rate``; ``mfu`` in the joint phase on a card
            whose peak is known.
        """
        passed, waited, steps = self._counted()
        speed = steps / passed
        images = speed * self._config.global_batch
        line = {
            **values,
            "steps_per_second": speed,
            "images_per_second": images,
            "data_wait": waited / passed,
            "skipped_steps": float(self._skipped),
            **_memory(self._device),
        }
        if "rate" in values:
            encoder = self._config.model.encoder
            dimensions = encoder.num_latents * encoder.latent_dim
            line["rate_bits"] = values["rate"] * dimensions / math.log(2)
        if "nll" in values and self._hardware is not None:
            peak = 1e12 * self._hardware.tflops
            line["mfu"] = images / self._workers * self._flops / peak
        self._begin()
        return line

    def _counted(self) -> tuple[float, float, int]:
        """Return seconds, those of them waited, and steps that a report's speed is of."""
        passed = self._clock() - self._began
        seconds, waited, steps = self._left_out if self._steps > 1 else (0.0, 0.0, 0)
        return max(passed - seconds, 1e-9), self._waited - waited, self._steps - steps

    @functools.cached_property
    def _flops(self) -> float:
        """Operations of one image in a joint step, counted when they are first needed."""
        return training_flops(self._config)


def _memory(device: torch.device) -> dict[str, float]:
    if device.type == "cuda":
        return {"cuda_memory_gib": torch.cuda.max_memory_allocated(device) / _GIB}
    if sys.platform == "win32":
        return {}
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"process_memory_gib": most * unit / _GIB}


@torch.no_grad()
def latent_values(mean: Float[Tensor, "b k d"], sigma: float) -> dict[str, float]:
    """Say how much of the images the latents of a batch hold.

    Args:
        mean: Means of the posteriors; of one image alone only ``latent_abs`` can be said.
        sigma: Standard deviation of the posteriors.

    Returns:
        ``latent_abs``, mean size of an entry; ``latent_std``, its standard deviation over images,
        averaged over entries; ``latent_dead``, the share of entries where that is below a tenth of
        sigma; ``latent_bits``, the rate above the noise that the best normal prior with independent
        entries would have, ``sum 1/2 log2(1 + std^2 / sigma^2)`` an image: the flow's own
        ``rate_bits`` begins above it, and falls below once it has learned their dependence.

    Example:
        >>> mean = torch.tensor([[[-1.0, 0.0]], [[1.0, 0.0]]])
        >>> {name: round(value, 3) for name, value in latent_values(mean, 1.0).items()}
        {'latent_abs': 0.5, 'latent_std': 0.5, 'latent_dead': 0.5, 'latent_bits': 0.5}
    """
    flat = rearrange(mean.float(), "b k d -> b (k d)")
    values = {"latent_abs": flat.abs().mean()}
    if len(flat) > 1:
        std = flat.std(0, correction=0)
        values |= {
            "latent_std": std.mean(),
            "latent_dead": (std < _DEAD_BELOW * sigma).float().mean(),
            "latent_bits": 0.5 * torch.log2(1 + (std / sigma).square()).sum(),
        }
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))
