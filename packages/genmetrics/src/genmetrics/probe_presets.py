"""How others train linear probes: the complete recipes ``repa``, ``mae`` and ``mimflow-tools``."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from genmetrics.errors import UsageError
from genmetrics.lars import LARS

PresetName = Literal["repa", "mae", "mimflow-tools"]

_LR_BATCH = 256  # the batch that a learning rate "per 256 images" is meant for


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbePreset:
    """A probe's normalisation, optimiser and schedule.

    Args:
        name: How results call it.
        optimizer_id: The optimiser and its constants, in words.
        optimizer: Builds the optimiser from tensors and a learning rate.
        lr: Learning rate at its peak.
        lr_scales: Whether ``lr`` is meant for 256 images and grows with the batch.
        warmup_epochs: Epochs of linear growth from 0, before the half cosine to 0.
        lr_moves: Whether the learning rate changes at each ``step`` or each ``epoch``.
        standardize: Whether features are first standardised with the training mean and deviation.
        norm_affine: Whether the batch norm in front of the head has a scale and shift to learn.
        norm_eps: What it adds to variances.
        head_std: Deviation of the head's first weights, with a bias of 0; None is PyTorch's
            uniform draw for linear layers, in +-1/sqrt(d) for both.
        epochs: Passes over the training rows.
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

    def peak_lr(self, batch_size: int) -> float:
        """Return the highest learning rate for a batch."""
        return self.lr * batch_size / _LR_BATCH if self.lr_scales else self.lr

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
        if now < self.warmup_epochs:
            return now / self.warmup_epochs
        done = (now - self.warmup_epochs) / (epochs - self.warmup_epochs)
        return 0.5 * (1 + math.cos(math.pi * done))

    def to_dict(self) -> dict[str, Any]:
        """Return every constant but epochs and batch, which a caller may change."""
        return {
            "name": self.name,
            "optimizer": self.optimizer_id,
            "lr": self.lr,
            "lr_per": f"{_LR_BATCH} rows of the batch" if self.lr_scales else "step",
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
