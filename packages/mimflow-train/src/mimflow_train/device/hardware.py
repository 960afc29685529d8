"""How fast a device can be, and how much it holds; imports torch only to ask the machine."""

import re
import time
from typing import TYPE_CHECKING, NamedTuple

from mimflow_train.errors import ConfigError

if TYPE_CHECKING:
    import torch

__all__ = ["HARDWARE", "Hardware", "detect", "find_hardware", "matmul_rate", "named_hardware"]

_GIB = 2**30
_OTHERWISE_SLOWER = {"laptop", "mig", "d", "q"}  # slices, mobile and power-limited kinds of a card


class Hardware(NamedTuple):
    """One accelerator.

    Attributes:
        name: The words that its name, as the driver gives it, must contain.
        tflops: Peak rate of dense bf16 matrix products with float32 sums, in 10^12 a second.
        memory_gib: Memory, in GiB; makers' "GB" of a card's memory are 2^30 bytes.
        bandwidth: Peak rate of the memory, in 10^12 bytes a second.
    """

    name: str
    tflops: float
    memory_gib: float
    bandwidth: float


# A name with more words comes before one that it contains. Sources: the makers' data sheets (A100,
# H100, H200, L40S, L40, L4, A40, RTX A6000, HGX B200, MI300X), whose larger numbers are with
# sparsity and twice these; NVIDIA's white papers on GA102, AD102 and Blackwell RTX for the other
# cards called RTX, whose rate with float32 sums is half that with float16 sums, except RTX 6000
# Ada's; H20's rate is from its users, and the paper's own time on it agrees.
HARDWARE = (
    Hardware("A100 80GB", 312, 80, 2.039),
    Hardware("A100", 312, 40, 1.555),
    Hardware("H100 PCIe", 756, 80, 2),
    Hardware("H100 NVL", 835, 94, 3.9),
    Hardware("H100", 989, 80, 3.35),
    Hardware("H200 NVL", 835, 141, 4.8),
    Hardware("H200", 989, 141, 4.8),
    Hardware("H20", 148, 96, 4),
    Hardware("B200", 2250, 180, 8),
    Hardware("L40S", 362, 48, 0.864),
    Hardware("L40", 181, 48, 0.864),
    Hardware("L4", 121, 24, 0.3),
    Hardware("A40", 149.7, 48, 0.696),
    Hardware("RTX A6000", 154.8, 48, 0.768),
    Hardware("RTX 6000 Ada", 364.2, 48, 0.96),
    Hardware("RTX 3090", 71, 24, 0.936),
    Hardware("RTX 4090", 165.2, 24, 1.008),
    Hardware("RTX 5090", 209.5, 32, 1.792),
    Hardware("MI300X", 1307, 192, 5.3),
)


def find_hardware(name: str) -> Hardware | None:
    """Return the accelerator of this name, None if its peak is not known.

    Args:
        name: As the driver gives it, or a part of it that identifies the card.

    Example:
        >>> find_hardware("NVIDIA H100 80GB HBM3")
        Hardware(name='H100', tflops=989, memory_gib=80, bandwidth=3.35)
        >>> find_hardware("NVIDIA GeForce RTX 4090 Laptop GPU") is None
        True
    """
    words = _words(name)
    if words & _OTHERWISE_SLOWER:
        return None
    return next((each for each in HARDWARE if _words(each.name) <= words), None)


def _words(name: str) -> set[str]:
    # "A100-SXM4-80GB" and "A100 80GB PCIe" alike; whole words, since GH200 is not an H200.
    return set(re.findall(r"[a-z0-9]+", name.lower()))


def named_hardware(name: str) -> Hardware:
    """Return the accelerator that a user names.

    Raises:
        ConfigError: If it is not in the table.
    """
    found = find_hardware(name)
    if found is None:
        known = ", ".join(each.name for each in HARDWARE)
        raise ConfigError(f"Expected --hardware to be one of {known}; got {name}. Choose one.")
    return found


def detect(device: "torch.device | None" = None) -> Hardware | None:
    """Return what a GPU of this machine is, with the memory it really has.

    Args:
        device: The device; None for the current GPU if there is one.

    Returns:
        None for a CPU and for a card whose peak is not known.
    """
    import torch

    if not torch.cuda.is_available() or (device is not None and device.type != "cuda"):
        return None
    card = torch.cuda.get_device_properties(device or torch.device("cuda"))
    found = find_hardware(card.name)
    return found and found._replace(memory_gib=card.total_memory / _GIB)


def matmul_rate(seconds: float = 1.0) -> float:
    """Measure how fast this machine's CPU multiplies matrices, in the type that training takes.

    Args:
        seconds: How long to measure, after one product that warms up.

    Returns:
        Floating point operations a second.
    """
    import torch

    side = 1024
    dtype = torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    matrix = torch.ones(side, side, dtype=dtype)
    torch.mm(matrix, matrix)
    products, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds or not products:
        torch.mm(matrix, matrix)
        products += 1
    return 2 * side**3 * products / passed
