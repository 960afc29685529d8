"""A guard against features that know the label because they were given it."""

from collections.abc import Callable

import torch
from jaxtyping import Int64
from torch import Tensor

from genmetrics.errors import BadInput, NumericalFailure


class LabelLeak(BadInput):
    """Features change with the label that is handed to the model along with the images."""


def require_label_free(
    extract: Callable[[Tensor, Tensor], Tensor], x: Tensor, labels: Int64[Tensor, " n"]
) -> None:
    """Raise unless features are the same, bit for bit, whatever labels go in beside the images.

    A probe on hidden states of a class-conditional flow that is given the class scores the label,
    not the features; such a flow has to be run with its null class.

    Args:
        extract: Maps inputs and labels to features; must not draw random numbers.
        x: Inputs; a few suffice.
        labels: Their labels, of at least two classes. Each is replaced by another one of them.

    Raises:
        LabelLeak: If a feature depends on the labels; says of how many inputs.
        BadInput: If there are fewer than two classes, or two calls with the same labels differ.
        NumericalFailure: If a feature is not finite, so that nothing can be compared.

    Example:
        >>> labels = torch.tensor([0, 1, 1])
        >>> require_label_free(lambda x, labels: 2 * x, torch.ones(3, 2), labels)
        >>> require_label_free(lambda x, labels: x + labels[:, None], torch.ones(3, 2), labels)
        Traceback (most recent call last):
        ...
        genmetrics.probes.label_guard.LabelLeak: Expected features without the class; 3 of 3 \
change with the label, so the class leaks into them. Extract them with the null class.
    """
    classes, places = torch.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise BadInput(
            f"Expected labels of at least 2 classes; got {len(classes)}. "
            "Pass inputs of another class too."
        )
    others = classes[(places + 1) % len(classes)]
    with torch.no_grad():
        first, again, relabelled = (extract(x, y) for y in (labels, labels, others))
    if not torch.isfinite(first).all():
        raise NumericalFailure("Expected finite features; got NaN or infinity. Check the model.")
    if not torch.equal(first, again):
        raise BadInput(
            "Expected the same features from two calls; got different ones, so that the effect of "
            "the label cannot be told. Switch noise and dropout off."
        )
    if torch.equal(first, relabelled):
        return
    changed = int((first != relabelled).flatten(start_dim=1).any(dim=1).sum())
    raise LabelLeak(
        f"Expected features without the class; {changed} of {len(first)} change with the label, "
        "so the class leaks into them. Extract them with the null class."
    )
