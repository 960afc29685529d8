"""How long training waits for a checkpoint and its picture, beside writing both in its own thread.

Run with `OMP_NUM_THREADS=2 uv run python benchmarks/checkpoint_stall.py [--scale S] [--rounds 5]`,
with --picture for the second alone; prints the tables of checkpoint_stall.md. Samples are not
drawn, which costs what sampling costs; the picture is of scikit-image's photographs.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from loop_overhead import benchmark_config
from PIL import Image
from skimage.data import astronaut, chelsea, coffee
from torch import Tensor

from mimflow_train.data.images import LabelledImages, MemoryImages, Split
from mimflow_train.evaluation.pictures import save_grid
from mimflow_train.plan import Plan
from mimflow_train.state import TrainState
from mimflow_train.storage import saver as saver_module
from mimflow_train.storage.checkpoint import snapshot, write_checkpoint
from mimflow_train.storage.saver import Saver

CPU = torch.device("cpu")


def photographs() -> list[Tensor]:
    """Return twelve rows of twelve squares of 256 px."""
    draw, squares = torch.Generator().manual_seed(0), []
    for number in range(144):
        photo = torch.from_numpy([astronaut, chelsea, coffee][number % 3]()).movedim(-1, 0)
        top, left = (int(torch.randint(n - 255, (), generator=draw)) for n in photo.shape[1:])
        squares.append(photo[:, top : top + 256, left : left + 256])
    return [*torch.stack(squares).split(12)]


def save_large(small: Path, path: Path) -> None:
    """Encode a grid as it was done before: twice as large, with a search for the least size."""
    with Image.open(small) as grid:
        large = grid.resize((2 * grid.width, 2 * grid.height), Image.Resampling.NEAREST)
    large.save(path, optimize=True)


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def one_image() -> LabelledImages:
    split = Split(MemoryImages(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)), torch.zeros(1).long())
    return LabelledImages(split, split, ("a", "b", "c"))


def checkpoints(scale: str, rounds: int) -> None:
    """Print how long training waits for the copy of a state, and for the whole write."""
    config = benchmark_config(scale, 2, 1000)
    state = TrainState(config, CPU)
    for parameter in state.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()  # fills the moments
    stalls, writes, plan = [], [], Plan(until=1000, checkpoint_every=1000)
    with tempfile.TemporaryDirectory() as folder:
        saver = Saver(config, one_image(), Path(folder), plan)
        for number in range(rounds):
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
    print(f"scale {scale}, {size / 1e9:.2f} GB a checkpoint, in turns\n")
    print("| training waits | median | ratio |\n|---|--:|--:|")
    print(f"| for the whole write, in its own thread | {write:.2f} s | 1.000 |")
    print(f"| for the copy alone | {stall:.2f} s | {stall / write:.3f} |")


def pictures(rounds: int) -> None:
    """Print how long training waits for the picture of a save, in CPU seconds of its thread."""
    rows, names = photographs(), ["photographs"] * 12
    saver_module.sample_rows = lambda *_: (rows, names)  # type: ignore[assignment]
    config = benchmark_config("tiny", 2, 1000)
    state = TrainState(config, CPU)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saver = Saver(config, one_image(), folder, Plan(until=1000, checkpoint_every=1))
        copies = snapshot(state)
        now, plain = [], []
        for _ in range(rounds):
            plain.append(cpu_seconds(partial(save_grid, rows, names, folder / "grid.png")))
            now.append(cpu_seconds(partial(saver._draw, state, copies)))
            saver.wait()
        before = cpu_seconds(partial(save_large, folder / "grid.png", folder / "large.png"))
        large, small = ((folder / f"{each}.png").stat().st_size / 1e6 for each in ("large", "grid"))
    print("\n| training waits for a picture | median | file |\n|---|--:|--:|")
    for what, waits, size in (
        ("twice as large, optimized, in its own thread", [before], large),
        ("as large as it is, in its own thread", plain, small),
        ("the same, in the saver's thread", now, small),
    ):
        print(f"| {what} | {statistics.median(waits):.3f} s | {size:.1f} MB |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="S")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--picture", action="store_true", help="the second table alone")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    if not options.picture:
        checkpoints(options.scale, options.rounds)
    pictures(options.rounds)


if __name__ == "__main__":
    main()
