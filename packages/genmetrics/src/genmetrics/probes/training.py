"""Linear probes of frozen features, by published recipes, at all depths in one loop.

Each depth has a head of its own: normalisation, one linear layer, its own losses. The heads share
the order of the rows and nothing else, so that a depth's result does not depend on its company.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from genmetrics.checks import require_finite
from genmetrics.errors import BadInput, NumericalFailure, UsageError
from genmetrics.full_precision import full_float32
from genmetrics.probes.data import Labelled, ProbeData, as_probe_data, labels_as_in
from genmetrics.probes.presets import PresetName, ProbePreset, probe_preset
from genmetrics.probes.report import ProbeResult, ProbeRun, TopK

_VARIANCE_FLOOR = 1e-6
_ROWS_AT_A_TIME = 16384


class _Task(NamedTuple):
    """What one head learns: rows, and the places of their labels among the training classes."""

    train: Float[Tensor, "n d"]
    train_targets: Int64[Tensor, " n"]
    val: Float[Tensor, "m d"]
    val_targets: Int64[Tensor, " m"]  # -1 for a class never trained
    num_classes: int


def linear_probe(  # noqa: PLR0913  # the protocol's choices
    train: Labelled,
    val: Labelled,
    preset: PresetName = "repa",
    seeds: Sequence[int] = (0,),
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[int], object] | None = None,
) -> ProbeResult:
    """Train a linear classifier on frozen features and test it after every epoch.

    The last incomplete batch of an epoch is left out. The best epoch is chosen on the rows that
    also give its accuracy, as the literature does: it flatters, and the final epoch does not.

    Args:
        train: Training features, or a pair of features and labels.
        val: Features to test on, likewise.
        preset: Whose recipe, see :func:`genmetrics.probes.presets.probe_preset`.
        seeds: One training for each; of the first weights and the order of the rows.
        epochs: Passes over the training rows; None is the preset's 90, and of a set smaller than
            ImageNet as many as take the same steps.
        batch_size: Rows per step; None is the preset's.
        device: Where to train.
        progress: Called after each epoch with 1.

    Raises:
        UsageError: If there is no such preset or seed, or a number is out of range.
        BadInput: If there are fewer than 2 classes, the dimensions of the sets differ, or a class
            to test on has no namesake in training.
        NumericalFailure: If a feature is not finite, or training diverges.

    Example:
        >>> x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
        >>> data = ProbeData(x, (x[:, 0] > 0).long())
        >>> result = linear_probe(data, data, "mimflow-tools", epochs=20)
        >>> result.top1.mean > 0.9, result.batch_size, result.num_classes
        (True, 8, 2)
    """
    results = probe_depths(
        {"features": as_probe_data(train, "the training set")},
        {"features": as_probe_data(val, "the validation set")},
        preset,
        seeds,
        epochs=epochs,
        batch_size=batch_size,
        device=device,
        progress=progress,
    )
    return results["features"]


@torch.inference_mode(mode=False)  # evaluation often runs in it, where nothing can be trained
def probe_depths(  # noqa: PLR0913  # those of linear_probe
    train: Mapping[str, Labelled],
    val: Mapping[str, Labelled],
    preset: PresetName = "repa",
    seeds: Sequence[int] = (0,),
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[int], object] | None = None,
) -> dict[str, ProbeResult]:
    """Train a linear probe at every depth at once; the results equal those of single runs.

    Args:
        train: Training features of each depth, of the same images in the same order, or pairs of
            features and labels.
        val: Features to test on, under the same names.
        preset: As in :func:`linear_probe`, like all that follows.
        seeds: One training of all depths for each.
        epochs: Passes over the training rows.
        batch_size: Rows per step.
        device: Where to train.
        progress: Called after each epoch with 1.

    Raises:
        UsageError: As :func:`linear_probe`.
        BadInput: As there, and if names or numbers of images differ between depths.
        NumericalFailure: As there.
    """
    recipe = probe_preset(preset)
    rows, held_out = _all_data(train, "training"), _all_data(val, "validation")
    tasks = _tasks(rows, held_out)
    n = len(next(iter(tasks.values())).train)
    batch_size = recipe.batch_size_for(n) if batch_size is None else batch_size
    _check_batch(batch_size, n)
    epochs = recipe.epochs_for(n, batch_size) if epochs is None else epochs
    _check_choices(recipe, seeds, epochs)
    runs: dict[str, list[ProbeRun]] = {name: [] for name in tasks}
    for seed in seeds:
        curves: dict[str, list[TopK]] = {name: [] for name in tasks}
        with full_float32(torch.device(device)):
            for scores in _train(tasks, recipe, seed, (epochs, batch_size), torch.device(device)):
                for name, score in scores.items():
                    curves[name].append(score)
                if progress is not None:
                    progress(1)
        for name, curve in curves.items():
            best = max(range(epochs), key=[score.top1 for score in curve].__getitem__)
            runs[name].append(ProbeRun(seed, curve[-1], curve[best], best + 1))
    return {
        name: ProbeResult(
            preset=recipe,
            epochs=epochs,
            batch_size=batch_size,
            feature_dim=task.train.shape[1],
            pooling=rows[name].pooling,
            n_train=n,
            n_val=len(task.val),
            num_classes=task.num_classes,
            runs=tuple(runs[name]),
        )
        for name, task in tasks.items()
    }


class _Head(nn.Module):
    """Standardisation if the recipe has it, batch norm, and a linear layer."""

    shift: Tensor
    scale: Tensor

    def __init__(self, task: _Task, recipe: ProbePreset, generator: torch.Generator) -> None:
        super().__init__()
        dim, f32 = task.train.shape[1], torch.float32  # drawn in another dtype, weights differ
        shift, scale = torch.zeros(dim, dtype=f32), torch.ones(dim, dtype=f32)
        if recipe.standardize:
            shift, scale = _mean_and_deviation(task.train)
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        self.norm = nn.BatchNorm1d(dim, eps=recipe.norm_eps, affine=recipe.norm_affine, dtype=f32)
        self.weight = nn.Parameter(torch.empty(task.num_classes, dim, dtype=f32))
        self.bias = nn.Parameter(torch.zeros(task.num_classes, dtype=f32))
        if recipe.head_std is None:
            bound = 1 / math.sqrt(dim)
            nn.init.uniform_(self.weight, -bound, bound, generator=generator)
            nn.init.uniform_(self.bias, -bound, bound, generator=generator)
        else:
            nn.init.trunc_normal_(self.weight, std=recipe.head_std, generator=generator)

    def forward(self, rows: Float[Tensor, "b d"]) -> Float[Tensor, "b c"]:
        return F.linear(self.norm((rows - self.shift) / self.scale), self.weight, self.bias)


def _mean_and_deviation(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return them in float32, from float64 sums over a few rows at a time."""
    total = sum(part.double().sum(dim=0) for part in rows.split(_ROWS_AT_A_TIME))
    mean = total / len(rows)
    squares = (((part.double() - mean) ** 2).sum(dim=0) for part in rows.split(_ROWS_AT_A_TIME))
    variance = torch.stack([*squares]).sum(dim=0) / len(rows)
    return mean.float(), variance.clamp(min=_VARIANCE_FLOOR).sqrt().float()


def _train(
    tasks: Mapping[str, _Task],
    recipe: ProbePreset,
    seed: int,
    length: tuple[int, int],
    device: torch.device,
) -> Iterator[dict[str, TopK]]:
    """Yield the validation scores of all heads after each epoch."""
    epochs, batch_size = length
    heads = {
        # The same seed for each, since a head must not depend on how many came before it.
        name: _Head(task, recipe, torch.Generator().manual_seed(seed)).to(device)
        for name, task in tasks.items()
    }
    parameters = [p for head in heads.values() for p in head.parameters()]
    n = len(next(iter(tasks.values())).train)
    steps, peak = n // batch_size, recipe.peak_lr(batch_size, n)
    optimizer = recipe.optimizer(parameters, peak)
    order_generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        order = torch.randperm(n, generator=order_generator)[: steps * batch_size]
        for step, rows in enumerate(order.split(batch_size)):
            for group in optimizer.param_groups:
                group["lr"] = peak * recipe.lr_factor(epoch, step / steps, epochs)
            optimizer.zero_grad()
            with torch.enable_grad():
                for name, task in tasks.items():
                    logits = heads[name](task.train[rows].to(device, torch.float32))
                    F.cross_entropy(logits, task.train_targets[rows].to(device)).backward()
            optimizer.step()
        if not all(torch.isfinite(p).all() for p in parameters):
            raise NumericalFailure(
                f"Expected finite probe weights; got NaN or infinity in epoch {epoch + 1}. "
                "Try another preset or a larger batch."
            )
        yield {name: _score(heads[name], task, device) for name, task in tasks.items()}


@torch.no_grad()
def _score(head: _Head, task: _Task, device: torch.device) -> TopK:
    head.eval()
    top1 = top5 = 0
    parts = zip(
        task.val.split(_ROWS_AT_A_TIME), task.val_targets.split(_ROWS_AT_A_TIME), strict=True
    )
    for rows, targets in parts:
        logits = head(rows.to(device, torch.float32)).cpu()
        hits = logits.topk(min(5, task.num_classes)).indices == targets[:, None]
        top1 += int(hits[:, 0].sum())
        top5 += int(hits.any(dim=1).sum())
    head.train()
    return TopK(top1 / len(task.val), top5 / len(task.val))


def _all_data(sets: Mapping[str, Labelled], use: str) -> dict[str, ProbeData]:
    return {name: as_probe_data(each, f"the {use} set {name}") for name, each in sets.items()}


def _tasks(train: Mapping[str, ProbeData], val: Mapping[str, ProbeData]) -> dict[str, _Task]:
    if not train or train.keys() != val.keys():
        raise BadInput(
            f"Expected features of the same names in both sets; got {', '.join(train) or 'none'} "
            f"and {', '.join(val) or 'none'}."
        )
    counts = {(len(train[name]), len(val[name])) for name in train}
    if len(counts) > 1:
        found = ", ".join(f"{a} and {b}" for a, b in sorted(counts))
        raise BadInput(f"Expected the same images at every depth; got sets of {found} rows.")
    return {name: _task(train[name], val[name], name) for name in train}


def _task(train: ProbeData, val: ProbeData, name: str) -> _Task:
    rows, held_out = train.rows(), val.rows()
    if rows.shape[1] != held_out.shape[1]:
        raise BadInput(
            f"Expected {name} of one dimension; got {rows.shape[1]} for training and "
            f"{held_out.shape[1]} for validation. Pool both alike."
        )
    require_finite(rows, f"training features {name}")
    require_finite(held_out, f"validation features {name}")
    classes, targets = torch.unique(train.y, return_inverse=True)
    if len(classes) < 2:
        raise BadInput(
            f"Expected labels of at least 2 classes; got {len(classes)}. "
            "A probe needs something to tell apart."
        )
    truth = labels_as_in(train, val)
    places = torch.searchsorted(classes, truth).clamp(max=len(classes) - 1)
    val_targets = torch.where(classes[places] == truth, places, -1)
    return _Task(rows.cpu(), targets.cpu(), held_out.cpu(), val_targets.cpu(), len(classes))


def _check_batch(batch_size: int, n: int) -> None:
    if not 2 <= batch_size <= n:
        raise UsageError(
            f"Expected a batch of 2 to {n} rows, which is all there are; got {batch_size}."
        )


def _check_choices(recipe: ProbePreset, seeds: Sequence[int], epochs: int) -> None:
    if not seeds:
        raise UsageError("Expected at least one seed; got none. Pass (0,).")
    if epochs <= recipe.warmup_epochs:
        raise UsageError(
            f"Expected more than the {recipe.warmup_epochs} epochs of warm-up of the preset "
            f"{recipe.name}; got {epochs}."
        )
