"""How others train linear probes: the complete recipes ``repa``, ``mae`` and ``mimflow-tools``."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from genmetrics.errors import UsageError
from genmetrics.probes.lars import LARS

PresetName = Literal["repa", "mae", "mimflow-tools"]

_IMAGENET = 1_281_167  # training images, for which all recipes are meant
_LR_BATCH = 256  # the batch that a learning rate "per 256 images" is meant for


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbePreset:
    """A probe's normalisation, optimiser and schedule.

    Args:
        name: How results call it.
        optimizer_id: The optimiser and its constants, in words.
        optimizer: Builds the optimiser from tensors and a learning rate.
        lr: Learning rate at its peak.
        lr_scales: Whether ``lr`` is meant for 256 images of ImageNet and grows with the batch, up
            to the preset's; of a smaller set a batch counts as the same share of ImageNet.
        warmup_epochs: Epochs of linear growth from 0, before the half cosine to 0; of more epochs
            than the preset's it is the same share.
        lr_moves: Whether the learning rate changes at each ``step`` or each ``epoch``.
        standardize: Whether features are first standardised with the training mean and deviation.
        norm_affine: Whether the batch norm in front of the head has a scale and shift to learn.
        norm_eps: What it adds to variances.
        head_std: Deviation of the head's first weights, with a bias of 0; None is PyTorch's
            uniform draw for linear layers, in +-1/sqrt(d) for both.
        epochs: Passes over ImageNet; see :meth:`epochs_for`.
        batch_size: Rows per step, at most; see :meth:`batch_size_for`.
    """

    name: PresetName
    optimizer_id: str
    optimizer: Callable[[Iterable[Tensor], float], Optimizer]
    lr: float
    lr_scales: bool = False
    warmup_epochs: int = 0
    lr_moves: Literal["step", "epoch"] = "step"
    standardize: bool = False
    norm_affine: bool = False
    norm_eps: float = 1e-6
    head_std: float | None = None
    epochs: int = 90
    batch_size: int = 16384

    def batch_size_for(self, n: int) -> int:
        """Return the batch for ``n`` training rows: an eighth of them, up to the preset's own.

        The literature's 16384 is for the 1.28 million rows of ImageNet; with few rows it would
        leave one step per epoch.

        Example:
            >>> [probe_preset("repa").batch_size_for(n) for n in (1000, 1_281_167)]
            [125, 16384]
        """
        return min(self.batch_size, max(2, round(n / 8)))

    def epochs_for(self, n: int, batch_size: int | None = None) -> int:
        """Return the passes over ``n`` training rows that make as many steps as on ImageNet.

        After fewer a head is far from trained, and depths come in another order.

        Args:
            n: Training rows.
            batch_size: Rows per step; None is the preset's.

        Example:
            >>> [probe_preset("repa").epochs_for(n) for n in (1000, 1_281_167)]
            [878, 90]
            >>> probe_preset("repa").epochs_for(1000, 500)
            3510
        """
        steps = n // (self.batch_size_for(n) if batch_size is None else batch_size)
        return max(self.epochs, math.ceil(self.usual_steps / max(1, steps)))

    @property
    def usual_steps(self) -> int:
        """Steps of the recipe on ImageNet."""
        return self.epochs * (_IMAGENET // self.batch_size)

    def peak_lr(self, batch_size: int, n: int) -> float:
        """Return the highest learning rate for a batch of ``n`` training rows.

        Example:
            >>> mae = probe_preset("mae")
            >>> [round(mae.peak_lr(b, n), 1) for b, n in ((256, 1_281_167), (125, 1000))]
            [0.1, 6.4]
        """
        if not self.lr_scales:
            return self.lr
        share = batch_size * max(1.0, _IMAGENET / n)
        return self.lr * min(share, max(batch_size, self.batch_size)) / _LR_BATCH

    def lr_factor(self, epoch: int, share: float, epochs: int) -> float:
        """Return the learning rate over its peak.

        Args:
            epoch: Complete epochs so far.
            share: Share of the present epoch that is done, in [0, 1).
            epochs: Epochs in all, more than those of the warm-up.

        Example:
            >>> [round(probe_preset("mae").lr_factor(e, 0.5, 90), 4) for e in (0, 9, 49, 89)]
            [0.05, 0.95, 0.5098, 0.0001]
        """
        now = epoch + share if self.lr_moves == "step" else epoch
        warmup = self.warmup_epochs * max(1.0, epochs / self.epochs)
        if now < warmup:
            return now / warmup
        done = (now - warmup) / (epochs - warmup)
        return 0.5 * (1 + math.cos(math.pi * done))

    def to_dict(self) -> dict[str, Any]:
        """Return every constant but epochs and batch, which a caller may change."""
        return {
            "name": self.name,
            "optimizer": self.optimizer_id,
            "lr": self.lr,
            "lr_per": f"{_LR_BATCH} rows of ImageNet in the batch" if self.lr_scales else "step",
            "schedule": f"cosine to 0, per {self.lr_moves}",
            "warmup_epochs": self.warmup_epochs,
            "standardize": self.standardize,
            "batch_norm": {"affine": self.norm_affine, "eps": self.norm_eps},
            "head_init": "pytorch" if self.head_std is None else f"normal, std {self.head_std}",
        }


def probe_preset(name: PresetName) -> ProbePreset:
    """Return a recipe.

    ``repa``: batch norm without parameters, Adam, cosine (REPA, appendix C.1; weight decay, momenta
    and the head's first weights are not stated there and are PyTorch's). ``mae``: the same norm,
    LARS with 10 epochs of warm-up (MAE's linear probe, on features without augmentation).
    ``mimflow-tools``: standardised features, batch norm with parameters, SGD, one learning rate per
    epoch (the example command of MIMFlow's tools).

    Raises:
        UsageError: If there is no such recipe.
    """
    for recipe in _PRESETS:
        if recipe.name == name:
            return recipe
    names = ", ".join(recipe.name for recipe in _PRESETS)
    raise UsageError(f"Expected a preset among {names}; got {name!r}.")


def _adam(params: Iterable[Tensor], lr: float) -> Optimizer:
    return Adam(params, lr, betas=(0.9, 0.999))


def _sgd(params: Iterable[Tensor], lr: float) -> Optimizer:
    return SGD(params, lr, momentum=0.9, weight_decay=1e-4)


_PRESETS = (
    ProbePreset(name="repa", optimizer_id="Adam (0.9, 0.999)", optimizer=_adam, lr=1e-3),
    ProbePreset(
        name="mae",
        optimizer_id="LARS, momentum 0.9, trust 0.001",
        optimizer=LARS,
        lr=0.1,
        lr_scales=True,
        warmup_epochs=10,
        head_std=0.01,
    ),
    ProbePreset(
        name="mimflow-tools",
        optimizer_id="SGD, momentum 0.9, weight decay 1e-4",
        optimizer=_sgd,
        lr=0.1,
        lr_moves="epoch",
        standardize=True,
        norm_affine=True,
        norm_eps=torch.nn.BatchNorm1d(1).eps,
    ),
)
