"""What it costs a feature network on a CPU that glibc gives freed memory back to the system.

Run with `uv run python benchmarks/kept_memory.py`; prints a table of kept_memory.md. Each network
runs in a process of its own, before and after `keep_freed_memory`. Inception's weights are random,
which changes no time.
"""

import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from one_pass import RandomInception

from genmetrics import Extractor, get_extractor, keep_freed_memory

BATCH, REPEATS = 64, 7


def random_inception() -> Extractor:
    with tempfile.TemporaryDirectory() as name:
        empty, weights = Path(name, "none.pth"), Path(name, "random.pth")
        torch.save({}, empty)
        network = RandomInception("random", ["2048"], feature_extractor_weights_path=empty)
        torch.save(network.state_dict(), weights)
        return get_extractor("inception", weights=weights)


def seconds_and_pages(extractor: Extractor, images: torch.Tensor) -> tuple[float, float]:
    """Medians of a batch, after two that warm up."""
    found = []
    for _ in range(REPEATS):
        met = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        began = time.perf_counter()
        with torch.no_grad():
            extractor(images)
        seconds = time.perf_counter() - began
        found.append((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - met))
    times, pages = zip(*found[2:], strict=True)
    return statistics.median(times), statistics.median(pages)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # GiB


def measure(name: str) -> None:
    extractor = random_inception() if name == "inception" else get_extractor(name)
    images = torch.randint(0, 256, (BATCH, 3, 64, 64), dtype=torch.uint8)
    given_back, met, before = *seconds_and_pages(extractor, images), peak()
    keep_freed_memory()
    kept, met_still = seconds_and_pages(extractor, images)
    print(
        f"| {name} | {given_back:.2f} s, {met:,.0f} pages, {before:.1f} GiB "
        f"| {kept:.2f} s, {met_still:,.0f} pages, {peak():.1f} GiB | {kept / given_back:.2f} |"
    )


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batches of {BATCH}")
    print("| network | given back | kept | ratio of times |\n|---|--:|--:|--:|", flush=True)
    for name in ("inception", "efflite0"):
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(name,))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)


if __name__ == "__main__":
    main()
