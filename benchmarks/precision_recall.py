"""Precision and recall against torch-fidelity: time, memory and values.

Run with `uv run python benchmarks/precision_recall.py`; prints the tables of precision_recall.md.
Times in one process, in turns, in CPU seconds; memory in fresh processes.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch_fidelity.metric_prc import (
    calculate_precision_recall_full,
    calculate_precision_recall_part,
)

from genmetrics.metrics.neighbours import precision_recall

N, DIM, ROUNDS = 12_000, 256, 3


def ours(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    found = precision_recall(x, y)
    return found.precision, found.recall


def in_half(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    found = precision_recall(x, y, precision="adm-fp16")
    return found.precision, found.recall


WAYS: dict[str, Callable[[torch.Tensor, torch.Tensor], tuple[float, float]]] = {
    "torch-fidelity, full": calculate_precision_recall_full,
    "torch-fidelity, save_cpu_ram": calculate_precision_recall_part,
    "ours, float32": ours,
    "ours, adm-fp16": in_half,
}


def features() -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets with a falling spectrum, the first a little narrower and off."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1.0, DIM + 1) ** -0.5
    real = torch.randn(N, DIM, generator=generator) * scale
    return torch.randn(N, DIM, generator=generator) * scale * 0.95 + 0.02, real


def mebibytes(field: str) -> float:
    """A line of the kernel's account of this process; getrusage's would include the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024


def report_memory(name: str) -> None:
    """Print the peak above what features, libraries and a first small call hold."""
    x, y = features()
    WAYS[name](x[:100], y[:100])
    base = mebibytes("VmRSS")
    WAYS[name](x, y)
    print(f"{mebibytes('VmHWM') - base:.0f}")


def compare() -> None:
    x, y = features()
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    values = {}
    for _ in range(ROUNDS):
        for name, way in WAYS.items():
            began = time.process_time()
            values[name] = way(x, y)
            times[name].append(time.process_time() - began)
    medians = {name: statistics.median(kept) for name, kept in times.items()}
    slowest = medians["torch-fidelity, full"]
    for name, spent in medians.items():
        command = [sys.executable, __file__, name]
        memory = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        precision, recall = values[name]
        scores = f"{precision:.5f} | {recall:.5f}"
        print(f"| {name} | {spent:.2f} s | {slowest / spent:.1f} | {memory} MiB | {scores} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        report_memory(sys.argv[1])
    else:
        print(f"1 thread, torch {torch.__version__}, {N} and {N} rows of {DIM}")
        print("| way | CPU time | ratio | memory | precision | recall |\n|---|--:|--:|--:|--:|--:|")
        compare()
