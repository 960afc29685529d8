"""``genmetrics umap``: a picture of features or latents by class."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from genmetrics.commands.arguments import count, require_parent, seed
from genmetrics.commands.arrays import read_array, read_labels

if TYPE_CHECKING:
    import numpy as np

HELP = "picture of features or latents by class (UMAP or PCA)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("features", type=Path, metavar="F.npz", help="features or latents, with labels beside them")
    add("--out", type=Path, required=True, metavar="FILE", help="picture to write: png, pdf, svg")
    add("--key", metavar="K", help="array to draw (default: features, z, or the only one)")
    add(
        "--classes",
        type=count,
        default=20,
        metavar="N",
        help="draw N classes, chosen at random (default: 20)",
    )
    add("--method", choices=("umap", "pca"), default="umap", help="projection (default: umap)")
    add("--neighbors", type=count, default=15, metavar="N", help="of UMAP (default: 15)")
    add("--seed", type=seed, default=0, metavar="S", help="seed of all choices (default: 0)")


def run(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Project and draw."""
    del command
    require_parent(options.out, "--out")
    rows = read_array(options.features, options.key, preferred=("features", "z"))
    labels = read_labels(options.features, len(rows))
    names = {} if labels is None else _folder_names(options.features, labels)
    rows = rows.reshape(len(rows), -1)
    if labels is not None:
        kept = _of_some_classes(labels, options.classes, options.seed)
        rows, labels = rows[kept], labels[kept]

    import torch

    from genmetrics.plots import plot_latents, pyplot
    from genmetrics.projection import project

    pyplot()  # before the work, since it may be missing
    coordinates = project(
        torch.from_numpy(rows).float(),
        method=options.method,
        n_neighbors=options.neighbors,
        seed=options.seed,
    )
    shown = "no labels" if labels is None else f"{len(set(labels.tolist()))} classes"
    plot_latents(
        coordinates,
        options.out,
        labels=None if labels is None else torch.from_numpy(labels),
        names=names,
        title=f"{options.method.upper()} of {len(rows)} samples, {shown}",
    )
    sys.stdout.write(f"{options.out}: {len(rows)} samples, {shown}\n")


def _folder_names(path: Path, labels: "np.ndarray") -> dict[int, str]:
    """Return what classes are called, if ids stand beside them: the folder of their images."""
    import numpy as np

    from genmetrics.images.zip_members import open_npz

    with open_npz(path) as arrays:
        ids = arrays["ids"] if "ids" in arrays else np.empty(0)
    if ids.shape != labels.shape or ids.dtype.kind != "U":
        return {}
    return {
        label: PurePosixPath(name).parent.name
        for label, name in zip(labels.tolist(), ids.tolist(), strict=True)
        if "/" in name
    }


def _of_some_classes(labels: "np.ndarray", num_classes: int, seed: int) -> "np.ndarray":
    """Return which samples are of the classes to draw."""
    import numpy as np

    classes = np.unique(labels)
    if len(classes) > num_classes:
        classes = np.random.default_rng(seed).choice(classes, num_classes, replace=False)
    return np.isin(labels, classes)
