"""Features in two dimensions, to look at: UMAP or principal components."""

import importlib
import warnings
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from genmetrics.checks import Rows, as_features, require_finite
from genmetrics.errors import BadInput, UsageError, one_of

Projection = Literal["umap", "pca"]


def project(  # noqa: PLR0913  # UMAP's own choices, all with defaults
    features: Rows,
    labels: Int[Tensor, " n"] | Int[np.ndarray, " n"] | None = None,
    *,
    method: Projection = "umap",
    n_neighbors: int = 15,
    min_dist: float = 0.1,
    metric: str = "cosine",
    seed: int = 0,
) -> Float32[Tensor, "n 2"]:
    """Map features to the plane, the same for the same seed.

    UMAP keeps neighbourhoods, not distances: gaps between clusters and their sizes mean nothing.
    Principal components keep as much of the variance as two axes can.

    Args:
        features: One row per sample.
        labels: Classes that UMAP should pull apart; None, which is what a fair picture needs, for
            a map that knows no classes. Principal components never do.
        method: ``umap``, or ``pca``, which needs no other package.
        n_neighbors: Neighbours of each sample that UMAP keeps together, at least 2.
        min_dist: Smallest distance between points that UMAP aims at.
        metric: Distance in which UMAP looks for neighbours.
        seed: Seed of UMAP.

    Raises:
        UsageError: If there is no such method, umap-learn is not installed or there are fewer than
            2 neighbours.
        BadInput: If there are too few rows.
        NumericalFailure: If a feature is not finite.

    Example:
        >>> x = torch.tensor([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [2.0, 1.0, 0.0], [2.0, -1.0, 0.0]])
        >>> project(x, method="pca").abs().round().tolist()
        [[2.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    """
    one_of(get_args(Projection), method=method)
    if method == "umap" and n_neighbors < 2:
        raise UsageError(
            f"Expected --neighbors (n_neighbors in Python) of at least 2; got {n_neighbors}. Take "
            "more, such as 15."
        )
    features = as_features(features)
    require_finite(features, "features")
    least = n_neighbors + 1 if method == "umap" else 2
    if len(features) < least:
        raise BadInput(
            f"Expected at least {least} rows for {method}; got {len(features)}. "
            "Add samples, or look at fewer neighbours."
        )
    rows = features.to("cpu", torch.float64)
    if method == "pca":
        return _principal_components(rows)
    with warnings.catch_warnings():
        # Of the parametric variant, which is not used here.
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
        umap = _import_umap()
    reducer = umap.UMAP(
        n_components=2,
        n_neighbors=n_neighbors,
        min_dist=min_dist,
        metric=metric,
        random_state=seed,
        n_jobs=1,  # what a seed allows
    )
    classes = None if labels is None else torch.as_tensor(labels).cpu().numpy()
    coordinates: Tensor = torch.from_numpy(reducer.fit_transform(rows.float().numpy(), classes))
    return coordinates.float()


def _principal_components(rows: Float[Tensor, "n d"]) -> Float32[Tensor, "n 2"]:
    """Return the scores on the first two axes, each axis turned so that its largest is positive."""
    centred = rows - rows.mean(dim=0)
    n, d = centred.shape
    if d <= n:
        axes = torch.linalg.eigh(centred.T @ centred).eigenvectors
        scores = centred @ axes[:, -2:].flip(1)
    else:
        squares, left = torch.linalg.eigh(centred @ centred.T)
        scores = (left * squares.clamp(min=0).sqrt())[:, -2:].flip(1)
    largest = scores.abs().argmax(dim=0, keepdim=True)
    scores = scores * torch.where(scores.gather(0, largest) < 0, -1, 1)
    return torch.nn.functional.pad(scores, (0, 2 - scores.shape[1])).float()


def _import_umap() -> Any:
    try:
        return importlib.import_module("umap")
    except ImportError as error:
        raise UsageError(
            f"Expected the package umap-learn; got '{error}'. Install genmetrics[plot], or choose "
            "pca, which needs matplotlib alone, for the picture."
        ) from error
