"""What an exact likelihood is good for: Bayes' rule, scores and denoising. Methods of TarFlow."""

import math
from numbers import Real
from typing import Literal, get_args

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

import tarflow_prior
from tarflow_prior.checks import accepted_tokens, check_tensor
from tarflow_prior.config import check_type, one_of

Denoising = Literal["tweedie", "contrast"]


def classify(
    flow: "tarflow_prior.TarFlow",
    z: Float[Tensor, "b k d"],
    *,
    log_prior: Float[Tensor, " classes"] | None = None,
    rows: int = 256,
) -> Float[Tensor, "b classes"]:
    """Return ``log p(label | z)`` in nats by Bayes' rule, without gradients.

    It takes a pass for every class; blocks without a class table run once.

    Args:
        flow: The flow.
        z: Tokens, as for :meth:`TarFlow.forward`.
        log_prior: Log-probability of each class before ``z`` is seen; None is uniform.
        rows: Sequences of one pass, at most (but at least those of ``z``).

    Raises:
        ValueError: If the flow has no classes, ``log_prior`` another shape, or as
            :meth:`TarFlow.forward`.
    """
    num_classes = flow.config.num_classes
    if not num_classes:
        raise ValueError(
            "Expected a flow with classes to classify with; got one without. "
            "Build the flow with num_classes."
        )
    z = accepted_tokens(z, flow.config, flow.dtype)
    if not len(z):
        return z.new_zeros(0, num_classes)
    if log_prior is None:
        log_prior = z.new_zeros(num_classes)
    check_tensor(log_prior=log_prior)
    if log_prior.shape != (num_classes,):
        raise ValueError(
            f"Expected one log_prior for each of {num_classes} classes; "
            f"got shape {tuple(log_prior.shape)}. Give a vector."
        )
    return _class_log_probs(flow, z, log_prior.to(z), rows)


def score(
    flow: "tarflow_prior.TarFlow", z: Float[Tensor, "b k d"], label: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b k d"]:
    """Return the gradient of ``log p(z | label)`` in ``z``, in nats per unit of ``z``.

    It is a number to work with, without gradients itself; differentiate :meth:`TarFlow.log_prob`
    for higher orders.

    Args:
        flow: The flow.
        z: Tokens, as for :meth:`TarFlow.forward`.
        label: Class of each sample, as for :meth:`TarFlow.forward`.
    """
    # Sampling code often runs under inference_mode, whose tensors cannot be differentiated.
    with torch.inference_mode(mode=False), torch.enable_grad():
        point = accepted_tokens(z, flow.config, flow.dtype).detach().clone().requires_grad_()
        label = label.clone() if isinstance(label, Tensor) else label
        return torch.autograd.grad(flow.log_prob(point, label).sum(), point)[0]


def denoise(
    flow: "tarflow_prior.TarFlow",
    z: Float[Tensor, "b k d"],
    label: Int[Tensor, " b"] | None = None,
    sigma: float = math.nan,  # refused: it must be given, though the label before it need not
    *,
    rule: Denoising = "tweedie",
) -> Float[Tensor, "b k d"]:
    """Return the mean of clean tokens given noisy ones (Tweedie's formula), without gradients.

    Args:
        flow: The flow.
        z: Tokens with Gaussian noise of deviation ``sigma``, the kind that the flow was
            trained on.
        label: Class of each sample, as for :meth:`TarFlow.forward`.
        sigma: Deviation of the noise, at least 0, to be given. To step further or less far,
            scale it.
        rule: ``tweedie`` is ``z + sigma^2 grad log p(z | label)``; ``contrast`` takes the
            gradient of ``log p(z | label) - log p(z)``: guidance after the fact, no denoising.

    Raises:
        TypeError: If ``sigma`` is no number.
        ValueError: If ``sigma`` is negative or missing, ``contrast`` has no labels, or as
            :meth:`TarFlow.forward`.
    """
    one_of(get_args(Denoising), rule=rule)
    check_type(Real, "a number", "Give the deviation of the noise.", sigma=sigma)
    if not sigma >= 0:
        raise ValueError(
            f"Expected sigma of at least 0; got {sigma}. Give the deviation of the noise."
        )
    if rule == "contrast" and label is None:
        raise ValueError(
            "Expected labels with rule='contrast', which is about them; got None. "
            "Give the labels, or use rule='tweedie'."
        )
    z = accepted_tokens(z, flow.config, flow.dtype).detach()
    direction = score(flow, z, label)
    if rule == "contrast":
        direction = direction - score(flow, z, None)
    return z + sigma**2 * direction


@torch.no_grad()
def _class_log_probs(
    flow: "tarflow_prior.TarFlow",
    z: Float[Tensor, "b k d"],
    log_prior: Float[Tensor, " classes"],
    rows: int,
) -> Float[Tensor, "b classes"]:
    """Return ``log p(label | z)`` by Bayes' rule, see :func:`classify`."""
    num_classes = flow.config.num_classes
    blocks = list(flow.blocks)
    shared = len(blocks) - flow.config.num_class_tables  # the first blocks see no class
    log_det = z.new_zeros(len(z), dtype=torch.float64)
    for block in blocks[:shared]:
        z, change = block(z)
        log_det = log_det + change
    joint = []
    for labels in torch.arange(num_classes, device=z.device).split(max(1, rows // len(z))):
        u = repeat(z, "b k d -> (c b) k d", c=len(labels))
        label = repeat(labels, "c -> (c b)", b=len(z))
        # In float64, since totals of thousands of nats are to differ by fractions of one.
        total = repeat(log_det, "b -> (c b)", c=len(labels))
        for block in blocks[shared:]:
            u, change = block(u, label)
            total = total + change
        total = total - 0.5 * u.double().square().sum((1, 2))
        joint.append(rearrange(total, "(c b) -> b c", c=len(labels)))
    return torch.log_softmax(torch.cat(joint, dim=1) + log_prior, dim=1).to(z.dtype)
