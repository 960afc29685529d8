"""Settings of torch under which products of float32 numbers are float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            ),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
