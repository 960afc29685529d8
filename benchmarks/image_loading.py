"""Our readers of image folders and tars against torchvision's ImageFolder: images a second.

Run with `uv run python benchmarks/image_loading.py`; prints the table of image_loading.md. The
images are generated 500 x 375 JPEGs of some 70 kB; `--images N` takes fewer or more than 800.
"""

import argparse
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from mimflow_train.data.folder import BadImages, FolderImages, ImageReader
from mimflow_train.data.layout import read_layout
from mimflow_train.data.loading import load

SIZE, BATCH, CLASSES, ROUNDS, SKIPPED = 256, 16, 4, 3, 5


def write_images(folder: Path, count: int) -> None:
    draw = np.random.default_rng(0)
    for number in range(count):
        coarse = draw.integers(0, 256, (47, 63, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        grain = draw.normal(0, 12, (375, 500, 3))
        path = folder / f"class{number % CLASSES}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (np.asarray(image) + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=85)


def ours(root: Path, loaders: int) -> Iterator[object]:
    files = read_layout(root).train
    images = FolderImages(ImageReader(files, SIZE), BadImages(len(files), None, print))
    rows = range(len(files))
    lists = (rows[i : i + BATCH] for i in rows[::BATCH])
    return load(images, lists, loaders=loaders)


def torchvisions(root: Path, loaders: int) -> Iterator[object]:
    """ImageFolder, resized with the filter of ADM's crop, which at this size does not halve."""
    resize = transforms.Resize(SIZE, transforms.InterpolationMode.BICUBIC)
    steps = [resize, transforms.CenterCrop(SIZE), transforms.PILToTensor()]
    context = "fork" if loaders else None  # the default, without the start of a clean process
    images = ImageFolder(str(root), transforms.Compose(steps))
    return iter(DataLoader(images, BATCH, num_workers=loaders, multiprocessing_context=context))


def images_per_second(batches: Iterator[object]) -> float:
    """Rate after the first batches, which were decoded while the processes started."""
    for _ in range(SKIPPED):
        next(batches)
    began, count = time.perf_counter(), 0
    for batch in batches:
        count += len(batch[1])
    return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=800)
    count = parser.parse_args().images
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder, tar = Path(name) / "images", Path(name) / "images.tar"
        write_images(folder, count)
        with tarfile.open(tar, "w") as archive:
            archive.add(folder, "images")
        kilobytes = tar.stat().st_size / count / 1000
        print(f"{count} images of {kilobytes:.0f} kB", file=sys.stderr)
        print("| loader processes | round | torchvision | folder | tar | folder / torchvision |")
        print("|--:|--:|--:|--:|--:|--:|")
        for loaders in (0, 2):
            for number in range(1, ROUNDS + 1):
                theirs = images_per_second(torchvisions(folder, loaders))
                plain, packed = (images_per_second(ours(each, loaders)) for each in (folder, tar))
                rates = f"{theirs:.0f} | {plain:.0f} | {packed:.0f} | {plain / theirs:.2f}"
                print(f"| {loaders} | {number} | {rates} |")


if __name__ == "__main__":
    main()
