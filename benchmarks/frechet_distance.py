"""The Frechet distance against SciPy's sqrtm, as ADM's evaluator takes it.

Run with `uv run python benchmarks/frechet_distance.py`; prints the table of frechet_distance.md.
Both in one process, in turns; process CPU time, so that other programs disturb little.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import scipy
import scipy.linalg
import torch

from genmetrics import (
    GaussianStats,
    StatsAccumulator,
    frechet_distance,
    frechet_distance_from_features,
)

DIM = 2048
ROUNDS = 1


def features(n: int, seed: int) -> torch.Tensor:
    """Rows with a spectrum over seven decades, slightly rotated by the seed."""
    generator = torch.Generator().manual_seed(seed)
    i = torch.arange(1, DIM + 1, dtype=torch.float64)
    scale = (9 * i**-0.7 * torch.exp(-i / 170)).sqrt()
    tilt = 0.003 * torch.randn(DIM, DIM, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.eye(DIM, dtype=torch.float64) + tilt)[0] if seed else None
    rows = torch.randn(n, DIM, generator=generator, dtype=torch.float64) * scale
    return rows if turn is None else rows @ turn


def gathered(rows: torch.Tensor) -> GaussianStats:
    return StatsAccumulator(DIM).update(rows).finalize()


def by_sqrtm(a: GaussianStats, b: GaussianStats) -> float:
    root = scipy.linalg.sqrtm(a.cov.numpy() @ b.cov.numpy())
    gap = (a.mean - b.mean).numpy()
    return float(gap @ gap + np.trace(a.cov.numpy() + b.cov.numpy() - 2 * root.real))


def by_nuclear_norm(x: torch.Tensor, y: torch.Tensor) -> float:
    """The most exact way, from factors that are never squared."""
    factors = [
        torch.linalg.qr((z - z.mean(dim=0)) / (len(z) - 1) ** 0.5, mode="r")[1] for z in (x, y)
    ]
    norm = torch.linalg.svdvals(factors[0] @ factors[1].T).sum()
    spread = sum(factor.square().sum() for factor in factors)
    return ((x.mean(dim=0) - y.mean(dim=0)).square().sum() + spread - 2 * norm).item()


def interleaved(calls: list[Callable[[], float]]) -> tuple[list[float], list[float]]:
    """Median CPU seconds and last values of calls taken in turns."""
    times: list[list[float]] = [[] for _ in calls]
    values = [0.0 for _ in calls]
    for _ in range(ROUNDS):
        for index, call in enumerate(calls):
            began = time.process_time()
            values[index] = call()
            times[index].append(time.process_time() - began)
    return [statistics.median(kept) for kept in times], values


def compare(n: int, m: int) -> None:
    x, y = features(n, 1), features(m, 0)
    exact = by_nuclear_norm(x, y)
    a, b = gathered(x), gathered(y)
    calls = [
        lambda: by_sqrtm(a, b),
        lambda: frechet_distance(a, b).value,
    ]
    if max(n, m) <= DIM:
        calls.append(lambda: frechet_distance_from_features(x, y).value)
    times, values = interleaved(calls)
    names = ("sqrtm", "from statistics", "from features")
    for name, spent, value in zip(names, times, values, strict=False):
        ratio, error = f"{times[0] / spent:.1f}", f"{value - exact:.0e}"
        print(f"| {n} | {m} | {name} | {spent:.2f} s | {ratio} | {error} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    scipy.linalg.sqrtm(np.eye(8))
    torch.linalg.eigvalsh(torch.eye(8, dtype=torch.float64))
    print(f"1 thread, torch {torch.__version__}, SciPy {scipy.__version__}")
    print("| n | m | way | CPU time | ratio | error |\n|--:|--:|---|--:|--:|--:|")
    compare(20_000, 20_000)
    compare(500, 500)
