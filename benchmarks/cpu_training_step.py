"""What makes the default run's step fast on CPUs: ratios of step times, measured in one process.

Run with `uv run python benchmarks/cpu_training_step.py`; prints the rows of cpu_training_step.md.
"""

import contextlib
import dataclasses
import itertools
import os
import resource
import statistics
import time
from collections.abc import Callable

import timm
import torch
from loop_overhead import CPU, noise_images
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from genmetrics import efflite0_network, efflite0_normalize, keep_freed_memory
from mimflow_train.data.images import to_unit
from mimflow_train.draws import draw_step
from mimflow_train.engine.context import LocalContext
from mimflow_train.engine.stop import StopRequest
from mimflow_train.loop import Calls, train
from mimflow_train.model import MIMFlow
from mimflow_train.recipes import tiny
from mimflow_train.state import State, TrainState

REPEATS = 15


def seconds(step: Callable[[], object]) -> float:
    """Median time of a step, after three that warm up."""
    times = []
    for number in range(REPEATS + 3):
        began = time.perf_counter()
        step()
        if number >= 3:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def training_step(*, bf16: bool, fused: bool) -> Callable[[], None]:
    config = tiny()
    model = MIMFlow(config.model)
    size = config.model.encoder.image_size
    image = to_unit(torch.randint(0, 256, (64, 3, size, size)).to(torch.uint8))
    label, draws = torch.arange(64) % 12, draw_step(config, 0, slice(0, 64))

    def step() -> None:
        kernel = contextlib.nullcontext() if fused else sdpa_kernel(SDPBackend.MATH)
        with kernel, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = model(image, label, draws.masked, draws.noise)
        features = sum(each.float().square().mean() for each in output.features.values())
        flow = output.flow.u.square().mean() - output.flow.log_det.mean()
        (output.image.float().square().mean() + flow + features).backward()

    return step


def perceptual_step(*, channels_last: bool, folded: bool) -> Callable[[], None]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = efflite0_network() if folded else timm.create_model("tf_efficientnet_lite0").eval()
    network.requires_grad_(requires_grad=False).to(memory_format=layout)
    image = torch.rand(64, 3, 64, 64, requires_grad=True)

    def step() -> None:
        ready = efflite0_normalize(image).contiguous(memory_format=layout)
        maps = network.forward_intermediates(
            ready, indices=[0, 1, 2, 3], intermediates_only=True, stop_early=True
        )
        sum(each.square().mean() for each in maps).backward()

    return step


def joint_steps(count: int = 25) -> tuple[float, int]:
    """Median seconds of a joint step of the training loop, and pages that a step meets anew."""
    config = dataclasses.replace(tiny(), steps=count)
    ends = [(time.perf_counter(), 0)]

    def after_step(_: State) -> None:
        ends.append((time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt))

    context = LocalContext(CPU, lambda *_: None, StopRequest())
    state, data = TrainState(config, CPU), noise_images(config, 8 * config.global_batch)
    train(context, config, data, state=state, calls=Calls(1, after_step))
    pairs = list(itertools.pairwise(ends[5:]))
    pages = statistics.median(after[1] - before[1] for before, after in pairs)
    return statistics.median(after[0] - before[0] for before, after in pairs), int(pages)


def matmul_rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product."""
    a, b = torch.randn(2048, 2048, dtype=dtype), torch.randn(2048, 2048, dtype=dtype)
    return 2 * 2048**3 / seconds(lambda: a @ b)


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, pid {os.getpid()}")
    plain = seconds(training_step(bf16=False, fused=True))
    fused = seconds(training_step(bf16=True, fused=True))
    ours = seconds(training_step(bf16=True, fused=False))
    print(f"| networks, fp32 | {1e3 * plain:.0f} ms | 1.00 |")
    print(f"| networks, bf16, fused attention | {1e3 * fused:.0f} ms | {plain / fused:.2f} |")
    print(
        f"| networks, bf16, attention in parts (used) | {1e3 * ours:.0f} ms | {plain / ours:.2f} |"
    )
    with FlopCounterMode(display=False) as counter:
        training_step(bf16=False, fused=True)()
    rate, work = matmul_rate(torch.bfloat16), counter.get_total_flops()
    print(f"{work / 1e9:.0f} GFLOP a step; bf16 products run at {rate / 1e9:.0f} GFLOP/s")
    print(f"the step reaches {work / ours / rate:.0%} of that")
    contiguous = seconds(perceptual_step(channels_last=False, folded=False))
    last = seconds(perceptual_step(channels_last=True, folded=False))
    folded = seconds(perceptual_step(channels_last=True, folded=True))
    print(f"| perceptual network, channels first | {1e3 * contiguous:.0f} ms | 1.00 |")
    print(f"| perceptual network, channels last | {1e3 * last:.0f} ms | {contiguous / last:.2f} |")
    print(
        f"| perceptual network, channels last, norms folded (used) | {1e3 * folded:.0f} ms "
        f"| {contiguous / folded:.2f} |"
    )
    default, met = joint_steps()
    keep_freed_memory()
    kept, met_still = joint_steps()
    print(f"{met:,} pages met anew in a joint step, {met_still:,} where they are kept")
    print(f"| joint step of the loop, noise as images | {1e3 * default:.0f} ms | 1.00 |")
    print(
        f"| joint step of the loop, freed memory kept (used) | {1e3 * kept:.0f} ms "
        f"| {default / kept:.2f} |"
    )


if __name__ == "__main__":
    main()
