"""Settings of torch under which products of float32 numbers are float32."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any

import torch

_backends: Any = torch.backends  # whose stubs lack most of what follows
_cudnn, _onednn = _backends.cudnn, _backends.mkldnn
# What an operation does not say itself it takes from the library, and this from all of torch.
_SETTINGS = (
    (_cudnn, "enabled", True),
    (_cudnn, "benchmark", False),
    (_cudnn, "deterministic", True),
    *(
        (place, "fp32_precision", "ieee")
        for place in (
            _backends,
            _cudnn,
            _backends.cuda.matmul,
            _cudnn.conv,
            _cudnn.rnn,
            _onednn.matmul,
            _onednn.conv,
            _onednn.rnn,
        )
    ),
)


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Switch autocast, TF32 and autotuning off for the block: all change more than rounding.

    Autocast is a setting of the thread. The others are settings of the whole process: they come
    back when the last thread has left its block.

    Args:
        device: Where products are computed.

    Example:
        >>> x = torch.ones(2, 2)
        >>> with torch.autocast("cpu", torch.bfloat16), full_float32(x.device):
        ...     (x @ x).dtype
        torch.float32
    """
    with ExitStack() as stack:
        if torch.amp.is_autocast_available(device.type):  # not on the meta device
            stack.enter_context(torch.autocast(device.type, enabled=False))
        _PROCESS.enter()
        stack.callback(_PROCESS.leave)
        yield


class _Process:
    """The settings of the process, and how many blocks are open in its threads."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.num_open = 0

    def enter(self) -> None:
        """Set what products depend on, unless another block has."""
        with self.lock:
            if self.num_open == 0:
                self._set_all()
            self.num_open += 1

    def leave(self) -> None:
        """Put everything back, unless another block is open."""
        with self.lock:
            self.num_open -= 1
            if self.num_open == 0:
                self.before.close()

    def _set_all(self) -> None:
        with ExitStack() as stack:
            stack.callback(_set, [getattr(place, name) for place, name, _ in _SETTINGS])
            # Only what differs: a setting that follows another must go on following it.
            _set([value for *_, value in _SETTINGS])
            precision = torch.get_float32_matmul_precision()  # raises where TF32 is on without it
            if precision != "highest":
                stack.callback(torch.set_float32_matmul_precision, precision)
                torch.set_float32_matmul_precision("highest")
            self.before = stack.pop_all()


def _set(values: list[object]) -> None:
    for (place, name, _), value in zip(_SETTINGS, values, strict=True):
        if getattr(place, name) != value:
            setattr(place, name, value)


_PROCESS = _Process()
