"""How long training waits for a checkpoint, beside writing it in the same thread; one process.

Run with `OMP_NUM_THREADS=2 uv run python benchmarks/checkpoint_stall.py [--scale S] [--rounds 5]`;
prints the table of checkpoint_stall.md. Sample grids are left out: they cost what sampling costs.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from loop_overhead import benchmark_config

from mimflow_train import saver as saver_module
from mimflow_train.checkpoint import snapshot, write_checkpoint
from mimflow_train.data.images import LabelledImages, MemoryImages, Split
from mimflow_train.plan import Plan
from mimflow_train.saver import Saver
from mimflow_train.state import TrainState

CPU = torch.device("cpu")


def no_grid(*_: object) -> None:
    """Stand in for the sample grid."""


def one_image() -> LabelledImages:
    split = Split(MemoryImages(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)), torch.zeros(1).long())
    return LabelledImages(split, split, ("a", "b", "c"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="S")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    config = benchmark_config(options.scale, 2, 1000)
    state = TrainState(config, CPU)
    for parameter in state.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()  # fills the moments
    saver_module.sample_grid = no_grid  # type: ignore[assignment]
    stalls, writes = [], []
    with tempfile.TemporaryDirectory() as folder:
        saver = Saver(config, one_image(), Path(folder), Plan(until=1000))
        for number in range(options.rounds):
            state.step = number + 1
            began = time.perf_counter()
            saver(state)
            stalls.append(time.perf_counter() - began)
            saver.wait()
            began = time.perf_counter()
            written = write_checkpoint(snapshot(state), config, Path(folder))
            writes.append(time.perf_counter() - began)
        size = sum(path.stat().st_size for path in written.iterdir())
    stall, write = statistics.median(stalls), statistics.median(writes)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, scale {options.scale},")
    print(f"{size / 1e9:.2f} GB a checkpoint, {options.rounds} rounds in turns\n")
    print("| training waits | median | ratio |\n|---|--:|--:|")
    print(f"| for the whole write, in its own thread | {write:.2f} s | 1.000 |")
    print(f"| for the copy alone | {stall:.2f} s | {stall / write:.3f} |")


if __name__ == "__main__":
    main()
