"""Guided sampling against the published algorithm: ratios of times, measured in one process.

Run with `uv run python benchmarks/flow_sampling.py`; prints the tables of flow_sampling.md.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial

import published_algorithm as published
import torch

from tarflow_prior import Auto, GaussSeidel, Guidance, Jacobi, Sequential, TarFlow, TarFlowConfig
from tarflow_prior.packed import pack

ROUNDS = 7
GUIDANCES = {
    "all blocks, all tokens (TARFlow)": Guidance(2.0, interval=(0.0, 1.0), blocks="all"),
    "last block, interval 0.25-1 (MIMFlow)": Guidance(2.0),
}


def interleaved(baseline: Callable[[], object], ours: Callable[[], object]) -> tuple[float, float]:
    """Median times of two calls taken in turns, so that a noisy machine slows both."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS + 1):
        for call, kept in zip((baseline, ours), times, strict=True):
            began = time.perf_counter()
            call()
            if number:
                kept.append(time.perf_counter() - began)
    return statistics.median(times[0]), statistics.median(times[1])


def flow_of_16_layers() -> TarFlow:
    torch.manual_seed(0)
    flow = TarFlow(
        TarFlowConfig(num_tokens=64, token_dim=16, width=256, depths=(4,) * 4, num_classes=10)
    )
    for block in flow.blocks:
        torch.nn.init.normal_(block.head.weight, std=0.01)
    return flow


def compare_guided(flow: TarFlow) -> None:
    print("| batch | guidance | baseline | ours | ratio | difference |\n|--:|---|--:|--:|--:|--:|")
    for batch in (1, 16):
        u, label = torch.randn(batch, 64, 16), torch.arange(batch) % 10
        for name, guidance in GUIDANCES.items():
            baseline = partial(published.inverse, flow, u, label, guidance)
            decoder = flow.decoder(batch, guidance=guidance)
            ours = partial(decoder.decode, u, label)
            gap = (baseline() - ours()[0]).abs().max().item()
            slow, fast = interleaved(baseline, ours)
            ratio = f"{slow / fast:.2f}"
            print(f"| {batch} | {name} | {slow:.3f} s | {fast:.3f} s | {ratio} | {gap:.0e} |")


def compare_solvers(flow: TarFlow) -> None:
    print("\n| batch 16, unguided | time | sweeps | residual |\n|---|--:|---|--:|")
    u, label = torch.randn(16, 64, 16), torch.arange(16) % 10
    for solver in (Sequential(), Jacobi(1e-3), GaussSeidel(8, 1e-3), Auto(1e-3)):
        decoder = flow.decoder(16, solver=solver)
        decoder.decode(u, label)
        began = time.perf_counter()
        decoder.decode(u, label)
        spent = time.perf_counter() - began
        decoded = decoder(u, label)
        worst = decoded.residual.max().item()
        print(f"| {type(solver).__name__} | {spent:.3f} s | {decoded.sweeps} | {worst:.0e} |")


def compare_products() -> None:
    print("\n| rows | torch | packed | ratio |\n|--:|--:|--:|--:|")
    plain = [torch.nn.Linear(256, 1024) for _ in range(16)]
    for rows in (1, 2, 16, 32):
        packed = [pack(linear, torch.float32, rows) for linear in plain]
        x = torch.randn(rows, 1, 256)
        times = interleaved(partial(run_all, x, plain), partial(run_all, x, packed))
        slow, fast = (1e6 * each / 16 for each in times)
        print(f"| {rows} | {slow:.0f} us | {fast:.0f} us | {slow / fast:.2f} |")


def run_all(x: torch.Tensor, linears: Iterable[Callable[[torch.Tensor], object]]) -> None:
    for linear in linears:
        linear(x)


if __name__ == "__main__":
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    flow = flow_of_16_layers()
    with torch.no_grad():
        compare_guided(flow)
        compare_solvers(flow)
        compare_products()
