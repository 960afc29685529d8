"""A joint step on a GPU: images/s, share of the matrix product rate, memory; how it is computed.

Run with `uv run python benchmarks/gpu_step.py [--scale L] [--micro-batch 32]`; prints the tables of
gpu_step.md. All networks of the recipe run, the frozen ones with random weights, since time does
not depend on them; images are noise in memory. A step is one of the training loop: draws, forward,
backward, clip, AdamW, average. All in one process, so that ratios are of one card and one state.
"""

import argparse
import dataclasses
import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import timm
import torch
from loop_overhead import noise_images
from safetensors.torch import save_file
from torchvision.models import convnext_small

from mimflow_train.config import TrainConfig
from mimflow_train.device.costs import training_flops
from mimflow_train.engine.context import LocalContext
from mimflow_train.engine.stop import StopRequest
from mimflow_train.frozen.clip import ClipTeacher, empty_image_tower
from mimflow_train.frozen.dinov2 import DINOV2_NAME, DinoV2Teacher
from mimflow_train.frozen.perceptual import (
    ConvNextDistance,
    LpipsDistance,
    PerceptualDistance,
    PerceptualLoss,
    lpips_network,
)
from mimflow_train.frozen.teacher import frozen
from mimflow_train.loop import Calls, train
from mimflow_train.micro_batches import precision
from mimflow_train.recipes import RECIPES
from mimflow_train.state import State, TrainState
from mimflow_train.teachers import Targets

WARM_UP = 8


def matmul_rate(device: torch.device, side: int = 8192, repeats: int = 20) -> float:
    """Operations a second of a bf16 matrix product of random numbers, a median."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = [timed(lambda: a @ b) for _ in range(repeats)]
    return 2 * side**3 / statistics.median(seconds[3:])


def timed(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def random_targets(config: TrainConfig, device: torch.device) -> Targets:
    """The recipe's frozen networks, of random numbers, for the precision of a step."""
    with tempfile.TemporaryDirectory() as folder, precision(device, config.precision):
        return _random_targets(config, device, Path(folder))


def _random_targets(config: TrainConfig, device: torch.device, folder: Path) -> Targets:
    grid = config.model.encoder.grid
    files = {name: folder / f"{name}.safetensors" for name in ("dinov2", "clip")}
    dinov2 = timm.create_model(DINOV2_NAME, img_size=tuple(16 * n for n in grid), patch_size=16)
    save_file(dinov2.state_dict(), files["dinov2"])
    clip = empty_image_tower(grid).to_empty(device="cpu").state_dict()
    numbers = {f"visual.{name}": 0.02 * torch.randn(each.shape) for name, each in clip.items()}
    save_file(numbers, files["clip"])
    teachers = {
        "dinov2": DinoV2Teacher(files["dinov2"], grid, device),
        "clip": ClipTeacher(files["clip"], grid, device),
    }
    layout = torch.channels_last
    vgg16 = frozen(lpips_network(linear_weights=True), device).to(memory_format=layout)
    perceptual = PerceptualLoss(
        LpipsDistance(vgg16, compiled=config.compile),
        ConvNextDistance(frozen(convnext_small(), device).to(memory_format=layout)),
    )
    return Targets(perceptual, teachers, {})


@dataclasses.dataclass
class Measured:
    """Seconds of each step, the wait for the first, most bytes of tensors and in reserve."""

    seconds: list[float]
    start: float
    memory: int
    reserved: int


def run(config: TrainConfig, device: torch.device, steps: int) -> Measured:
    """Train for some steps from random weights."""
    gc.collect()  # a compiled layer refers to itself: what the last run held would be in the way
    torch.cuda.empty_cache()
    targets = random_targets(config, device)
    torch.cuda.reset_peak_memory_stats()
    config = dataclasses.replace(config, steps=WARM_UP + steps)
    data = noise_images(config, 8 * config.global_batch)
    ends = [time.perf_counter()]

    def after_step(_: State) -> None:  # the loop has waited for the gradient
        ends.append(time.perf_counter())

    context = LocalContext(device, lambda *_: None, StopRequest())
    state = TrainState(config, device)
    with patch.object(Targets, "load", return_value=targets):
        train(context, config, data, state=state, calls=Calls(1, after_step))
    seconds = [b - a for a, b in itertools.pairwise(ends)]
    memory, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return Measured(seconds[WARM_UP:], sum(seconds[:WARM_UP]), memory, reserved)


def frozen_seconds(config: TrainConfig, device: torch.device) -> dict[str, float]:
    """Seconds of the frozen networks alone, with the passes that a step makes."""
    targets = random_targets(config, device)
    size, batch = config.model.encoder.image_size, config.global_batch
    image = torch.rand(batch, 3, size, size, device=device) * 2 - 1
    made = torch.rand_like(image).requires_grad_()
    assert isinstance(targets.perceptual, PerceptualLoss)

    def passes(distance: PerceptualDistance) -> None:
        distance(made, distance.of(image)).backward()

    works: dict[str, Callable[[], object]] = {
        **{name: lambda teacher=each: teacher(image) for name, each in targets.teachers.items()},
        "LPIPS": lambda: passes(targets.perceptual.lpips),
        "ConvNeXt": lambda: passes(targets.perceptual.logits),
    }
    seconds = {}
    for name, work in works.items():
        with precision(device, config.precision):
            times = [timed(work) for _ in range(8)]
        seconds[f"{name}, {config.precision}"] = statistics.median(times[3:])
    return seconds


def profile(config: TrainConfig, device: torch.device, out: Path) -> None:
    """Write what the GPU did in three steps, and how long it did nothing."""
    with torch.profiler.profile() as profiler:
        run(config, device, 3)
    averages = profiler.key_averages()
    table = averages.table(sort_by="self_cuda_time_total", row_limit=40, max_name_column_width=70)
    by_cpu = averages.table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=70)
    out.write_text(f"{table}\n{by_cpu}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="L", choices=["S", "B", "L", "XL", "XXL"])
    parser.add_argument("--micro-batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--profile", type=Path, help="receives a profile of the compiled step")
    options = parser.parse_args()
    device = torch.device("cuda")
    rate = matmul_rate(device)
    config = dataclasses.replace(
        RECIPES[options.scale](tuple(f"class {n}" for n in range(1000)), "folder"),
        global_batch=options.micro_batch,
    )
    flops = training_flops(config)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, scale {options.scale},")
    print(f"{options.micro_batch} images a step, {options.steps} steps after {WARM_UP};")
    print(
        f"matrix products of 8192: {rate / 1e12:.0f} TFLOP/s; {flops / 1e12:.3f} TFLOP an image\n"
    )
    print(
        "| step | median, quartiles | images/s | TFLOP/s | of the products' rate | memory "
        "| in reserve | start |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    for name, how in {
        "plain": {},
        "compiled": {"compile": True},
        "compiled, captured": {"compile": True, "cuda_graph": True},
        "compiled, recomputed": {"compile": True, "recompute": True},
    }.items():
        done = run(dataclasses.replace(config, **how), device, options.steps)
        low, middle, high = statistics.quantiles(done.seconds, n=4)
        images = options.micro_batch / middle
        print(
            f"| {name} | {1e3 * middle:.1f} ms, {1e3 * low:.1f}-{1e3 * high:.1f} | {images:.1f} "
            f"| {images * flops / 1e12:.0f} | {100 * images * flops / rate:.1f} % "
            f"| {done.memory / 2**30:.1f} GiB | {done.reserved / 2**30:.1f} GiB "
            f"| {done.start:.0f} s |",
            flush=True,
        )
    print("\n| frozen network alone | ms a step |\n|---|--:|")
    for wanted in ("fp32", "bf16"):
        each = dataclasses.replace(config, precision=wanted, compile=True)
        for name, seconds in frozen_seconds(each, device).items():
            print(f"| {name} | {1e3 * seconds:.1f} |", flush=True)
    if options.profile:
        profile(dataclasses.replace(config, compile=True), device, options.profile)


if __name__ == "__main__":
    main()
