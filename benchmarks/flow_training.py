"""A training step of the flow against the published algorithm: ratios measured in one process.

Run with `uv run python benchmarks/flow_training.py`; prints the table of flow_training.md.
"""

from collections.abc import Callable

import published_algorithm as published
import torch
from flow_sampling import flow_of_16_layers, interleaved
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from tarflow_prior import TarFlow, nll_per_dim


def steps(flow: TarFlow, batch: int, *, bf16: bool) -> list[Callable[[], None]]:
    """Forward and backward of the baseline and of ours."""
    z, label = torch.randn(batch, 64, 16), torch.arange(batch) % 10

    def baseline() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            u, log_det = published.forward(flow, z, label)
        (u.square().mean() / 2 - log_det.mean() / z[0].numel()).backward()

    def ours() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = flow(z, label)
        nll_per_dim(output).mean().backward()

    return [baseline, ours]


def peak_bytes(step: Callable[[], None]) -> int:
    """Largest sum of what one step has allocated and not yet freed; gradients exist before."""
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    memory = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(memory, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def matmul_rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second of the step's largest product."""
    x, weight = torch.randn(64 * 64, 256, dtype=dtype), torch.randn(1024, 256, dtype=dtype)
    product = lambda: torch.nn.functional.linear(x, weight)  # noqa: E731
    return 2 * x.numel() * len(weight) / interleaved(product, product)[1]


def main() -> None:
    flow = flow_of_16_layers()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| batch | GEMMs | baseline | ours | speed | peak | ours | memory | of matmul rate |")
    print("|--:|---" + "|--:" * 7 + "|")
    for batch, bf16 in ((16, False), (64, False), (16, True), (64, True)):
        pair = steps(flow, batch, bf16=bf16)
        bytes_, our_bytes = (peak_bytes(step) / 1e6 for step in pair)
        slow, fast = interleaved(*pair)
        with FlopCounterMode(display=False) as counter:
            pair[1]()
        dtype = torch.bfloat16 if bf16 else torch.float32
        share = counter.get_total_flops() / fast / matmul_rate(dtype)
        print(
            f"| {batch} | {str(dtype)[6:]} | {slow:.2f} s | {fast:.2f} s | {slow / fast:.2f} "
            f"| {bytes_:.0f} MB | {our_bytes:.0f} MB | {our_bytes / bytes_:.2f} | {share:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
