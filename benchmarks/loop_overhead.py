"""What the training loop costs beside forward, backward and step, in one process.

Run with `OMP_NUM_THREADS=2 uv run python benchmarks/loop_overhead.py [--scale S] [--steps 10]`;
prints the table of loop_overhead.md. Scale S at 256 px with 2 images; teachers and perceptual
networks are left out, so that nothing is downloaded: with them the share of the loop is smaller.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from mimflow_train.config import LossConfig, TrainConfig
from mimflow_train.data.images import LabelledImages, MemoryImages, Split, to_unit
from mimflow_train.draws import draw_step
from mimflow_train.engine.context import LocalContext
from mimflow_train.engine.stop import StopRequest
from mimflow_train.loop import Calls, train
from mimflow_train.micro_batches import precision
from mimflow_train.objective import joint_objective
from mimflow_train.recipes import RECIPES
from mimflow_train.state import State, TrainState, take_step

CPU = torch.device("cpu")
WARM_UP = 3


def benchmark_config(scale: str, batch: int, steps: int) -> TrainConfig:
    config = RECIPES[scale](("a", "b", "c"), "folder")
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, features={}),
        loss=LossConfig(perceptual=0.0, feature=0.0),
        decoder_phase=dataclasses.replace(config.decoder_phase, steps=0),
        global_batch=batch,
        steps=steps,
    )


def noise_images(config: TrainConfig, number: int) -> LabelledImages:
    size = config.model.encoder.image_size
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (number, 3, size, size), generator=draw).to(torch.uint8)
    split = Split(MemoryImages(pixels), torch.arange(number) % 3)
    return LabelledImages(split, split, ("a", "b", "c"))


def bare_step(config: TrainConfig, data: LabelledImages) -> Callable[[], None]:
    """Everything that the method asks for, on a batch that is ready: Eq. 5-7, AdamW, average."""
    state, batch = TrainState(config, CPU), config.global_batch
    image = to_unit(data.train.stack(list(range(batch))))
    label, draws = data.train.labels[:batch], draw_step(config, 0, slice(0, batch))

    def step() -> None:
        with precision(CPU, config.precision):
            objective = joint_objective(
                state.model(image, label, draws.masked, draws.noise),
                image,
                draws.masked,
                weights=config.loss,
                targets={},
                perceptual=None,
            )
        objective.total.backward()
        nn.utils.clip_grad_norm_(state.model.parameters(), config.optim.clip_norm)
        take_step(state.optimizer, config.optim, state.step, config.steps)
        state.average(config.optim.ema_decay)
        state.step += 1

    return step


def interleaved(
    config: TrainConfig, data: LabelledImages, bare: Callable[[], None]
) -> tuple[list[float], list[float]]:
    """Seconds of each step of the loop, and of a bare step after each."""
    loop, alone = [], []
    began = time.perf_counter()

    def between(_: State) -> None:
        nonlocal began
        loop.append(time.perf_counter() - began)
        before = time.perf_counter()
        bare()
        alone.append(time.perf_counter() - before)
        began = time.perf_counter()

    context = LocalContext(CPU, lambda *_: None, StopRequest())
    train(context, config, data, state=TrainState(config, CPU), calls=Calls(1, between))
    return loop[WARM_UP:], alone[WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="S", choices=list(RECIPES))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    config = benchmark_config(options.scale, options.batch, options.steps + WARM_UP)
    data = noise_images(config, 8 * options.batch)
    loop, alone = interleaved(config, data, bare_step(config, data))
    ratios = sorted(a / b for a, b in zip(loop, alone, strict=True))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, scale {options.scale},")
    print(f"{options.batch} images a step, {options.steps} steps of either kind in turns\n")
    print("| step | median | ratio of neighbours: median, quartiles |\n|---|--:|--:|")
    print(f"| bare | {statistics.median(alone):.3f} s | 1.000 |")
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"| loop | {statistics.median(loop):.3f} s | {middle:.3f}, {low:.3f}-{high:.3f} |")


if __name__ == "__main__":
    main()
