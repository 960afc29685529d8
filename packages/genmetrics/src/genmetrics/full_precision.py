"""Settings of torch under which products of float32 numbers are float32."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

_torch: Any = torch.backends  # whose stubs lack most of what follows
_cudnn, _onednn = _torch.cudnn, _torch.mkldnn
# What an operation does not say itself it takes from the library, and this from all of torch.
_SETTINGS = (
    (_cudnn, "enabled", True),
    (_cudnn, "benchmark", False),
    (_cudnn, "deterministic", True),
    *(
        (place, "fp32_precision", "ieee")
        for place in (
            _torch,
            _cudnn,
            _torch.cuda.matmul,
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

    Autocast is a setting of the thread. The others are settings of the whole process: threads that
    run networks side by side need one block around all of them too.

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
        before = [getattr(place, name) for place, name, _ in _SETTINGS]
        stack.callback(_set, before)
        # Only what differs: a setting that follows another must go on following it.
        _set([value for *_, value in _SETTINGS])
        precision = torch.get_float32_matmul_precision()  # raises where TF32 is on without it
        if precision != "highest":
            stack.callback(torch.set_float32_matmul_precision, precision)
            torch.set_float32_matmul_precision("highest")
        yield


def _set(values: list[object]) -> None:
    for (place, name, _), value in zip(_SETTINGS, values, strict=True):
        if getattr(place, name) != value:
            setattr(place, name, value)
