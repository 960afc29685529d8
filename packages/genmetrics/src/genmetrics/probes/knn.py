"""Weighted nearest neighbours: a classifier of frozen features with nothing to train."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from genmetrics.checks import require_finite
from genmetrics.errors import BadInput, UsageError
from genmetrics.full_precision import full_float32
from genmetrics.probes.data import Labelled, as_probe_data, labels_as_in


@dataclass(frozen=True, slots=True)
class KNNResult:
    """Accuracies of the nearest-neighbour classifier.

    Args:
        top1: Share of rows, in [0, 1], whose class has the most weight.
        top5: Share whose class is among the five heaviest; None for at most five classes.
        k: Neighbours that vote.
        temperature: Of the votes.
        n_train: Rows that neighbours come from.
        n_val: Rows that were classified.
    """

    top1: float
    top5: float | None
    k: int
    temperature: float
    n_train: int
    n_val: int


def knn_accuracy(
    train: Labelled,
    val: Labelled,
    k: int = 20,
    *,
    temperature: float = 0.07,
    tile: int = 2048,
    device: str | torch.device = "cpu",
) -> KNNResult:
    """Classify each row by its ``k`` nearest in angle, with votes ``exp(cosine / temperature)``.

    Args:
        train: Rows whose labels are known, or a pair of features and labels.
        val: Rows to classify, likewise.
        k: Neighbours, at most the training rows.
        temperature: Above 0; a small one listens to the nearest only.
        tile: Rows of each set whose cosines are in memory at a time.
        device: Where cosines are computed.

    Raises:
        UsageError: If ``k``, the temperature or the tile is out of range.
        BadInput: If the dimensions differ, or a class to test has no namesake in training.
        NumericalFailure: If a feature is not finite.

    Example:
        >>> data = torch.eye(3), torch.tensor([4, 5, 6])
        >>> knn_accuracy(data, data, k=1).top1
        1.0
    """
    train = as_probe_data(train, "the training set")
    val = as_probe_data(val, "the validation set")
    if not (1 <= k <= len(train) and temperature > 0 and tile >= 1):
        raise UsageError(
            f"Expected 1 to {len(train)} neighbours, a temperature above 0 and a tile of at least "
            f"1; got {k}, {temperature} and {tile}."
        )
    rows, queries = train.rows(), val.rows()
    if rows.shape[1] != queries.shape[1]:
        raise BadInput(
            f"Expected features of one dimension; got {rows.shape[1]} for training and "
            f"{queries.shape[1]} for validation. Pool both alike."
        )
    require_finite(rows, "training features")
    require_finite(queries, "validation features")
    classes, targets = torch.unique(train.y.cpu(), return_inverse=True)
    truth = labels_as_in(train, val).cpu()
    top1 = top5 = 0
    for start in range(0, len(queries), tile):
        with full_float32(torch.device(device)):
            cosines, neighbours = _nearest(queries[start : start + tile].to(device), rows, k, tile)
        votes = torch.zeros(len(cosines), len(classes), dtype=torch.float64)
        # Relative to the nearest one, so that no temperature overflows.
        weight = ((cosines - cosines[:, :1]).double() / temperature).exp()
        votes.scatter_add_(1, targets[neighbours], weight)
        weights, guesses = votes.topk(min(5, len(classes)))
        hits = (classes[guesses] == truth[start : start + tile, None]) & (weights > 0)
        top1 += int(hits[:, 0].sum())
        top5 += int(hits.any(dim=1).sum())
    n = len(queries)
    return KNNResult(top1 / n, top5 / n if len(classes) > 5 else None, k, temperature, len(rows), n)


def _nearest(
    queries: Float[Tensor, "b d"], rows: Float[Tensor, "n d"], k: int, tile: int
) -> tuple[Float[Tensor, "b k"], Int64[Tensor, "b k"]]:
    """Return the highest cosines, descending, and their rows; on the CPU."""
    queries = F.normalize(queries.float())
    best = queries.new_empty(len(queries), 0)
    places = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(rows), tile):
        block = F.normalize(rows[start : start + tile].to(queries.device).float())
        candidates = torch.cat([best, queries @ block.T], dim=1)
        here = torch.arange(start, start + len(block), device=queries.device)
        all_places = torch.cat([places, here.expand(len(queries), -1)], dim=1)
        best, chosen = candidates.topk(min(k, candidates.shape[1]))
        places = all_places.gather(1, chosen)
    return best.cpu(), places.cpu()
