"""What a step costs when a second worker brings as many images again, on the CPUs of a machine.

Run with `uv run python benchmarks/weak_scaling.py [--batch 64] [--steps 20] [--scale tiny]`; prints
the table of weak_scaling.md. Two processes of one thread each take steps of the joint phase in
turns: one of them while the other waits; both at once but apart; both as one run (DDP); and as one
run that shards its weights (FSDP2). Frozen networks are left out, as in loop_overhead.py.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.distributed as dist
from loop_overhead import benchmark_config, noise_images
from torch import multiprocessing

from mimflow_train.config import TrainConfig
from mimflow_train.data.images import to_unit
from mimflow_train.draws import draw_step
from mimflow_train.engine.context import LocalContext
from mimflow_train.engine.stop import StopRequest
from mimflow_train.joint_phase import JointPhase
from mimflow_train.micro_batches import Batch
from mimflow_train.state import TrainState
from mimflow_train.teachers import Targets

CPU = torch.device("cpu")
WARM_UP = 2


class Worker(LocalContext):
    """One of two, which hears no signal and says nothing."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__(CPU, lambda *_: None, StopRequest())
        self.rank, self.world_size = rank, world_size


def step_of(config: TrainConfig, rank: int, world_size: int) -> Callable[[], None]:
    """A step of a worker with `global_batch / world_size` images."""
    state, share = TrainState(config, CPU), config.global_batch // world_size
    phase = JointPhase(state, Worker(rank, world_size), config, Targets(None, {}, {}))
    data, rows = noise_images(config, config.global_batch).train, list(range(share))
    batch = Batch(to_unit(data.stack(rows)), data.labels[:share], torch.arange(share))
    draws = draw_step(config, 0, slice(rank * share, (rank + 1) * share))

    def step() -> None:
        phase.gradients(batch, draws)
        phase.clip()
        phase.update()

    return step


def seconds(work: Callable[[], None] | None) -> float:
    dist.barrier()
    began = time.perf_counter()
    if work is not None:
        work()
    dist.barrier()
    return time.perf_counter() - began


def measure(rank: int, meeting: str, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    config = benchmark_config(options.scale, options.batch, 1000)
    double = replace(config, global_batch=2 * options.batch)
    alone = step_of(config, 0, 1)
    ways = {
        "one worker, the other waits": alone if rank == 0 else None,
        "two workers, apart": alone,
        "two workers, DDP": step_of(double, rank, 2),
        "two workers, FSDP2": step_of(replace(double, shard=True), rank, 2),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(WARM_UP + options.steps):
        for name, work in ways.items():
            times[name].append(seconds(work))
    if rank == 0:
        print_table({name: each[WARM_UP:] for name, each in times.items()}, options)
    dist.destroy_process_group()


def print_table(times: dict[str, list[float]], options: argparse.Namespace) -> None:
    print(f"torch {torch.__version__}, scale {options.scale}, {options.batch} images a worker,")
    print(f"{options.steps} steps of each kind in turns, one thread a worker\n")
    print("| step | median | images/s | efficiency: median, quartiles |\n|---|--:|--:|--:|")
    first, *_ = times.values()
    for name, each in times.items():
        low, middle, high = statistics.quantiles(
            (one / two for one, two in zip(first, each, strict=True)), n=4
        )
        median, workers = statistics.median(each), 1 if each is first else 2
        print(
            f"| {name} | {median:.3f} s | {workers * options.batch / median:.1f} "
            f"| {middle:.3f}, {low:.3f}-{high:.3f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="tiny")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(measure, (f"{folder}/meeting", options), nprocs=2)


if __name__ == "__main__":
    main()
