"""Weights by the names of TarFlow's own code (apple/ml-tarflow), as a flow of this package."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

import tarflow_prior
from tarflow_prior.config import TarFlowConfig
from tarflow_prior.pretrained import check_finite

_FIRST = "blocks.0.proj_in.weight"


def from_published(
    kind: type["tarflow_prior.TarFlow"], weights: Mapping[str, Tensor], *, head_dim: int = 64
) -> "tarflow_prior.TarFlow":
    """Build a flow of weights that TarFlow's code (apple/ml-tarflow) saved, on the CPU.

    It computes what that code computes, in float32 (or float64): no gate, no bound on the
    log-scale. Label -1 is the null class here, when sampling too.

    Args:
        kind: The flow's class, which the call itself gives.
        weights: The state dict, as ``torch.load(file, weights_only=True)`` returns it; names may
            begin with ``module.``, say, and others are left out then.
        head_dim: Width of one attention head, which weights do not tell; TarFlow's is 64.

    Raises:
        ValueError: If a weight is missing, unknown, of another shape or not finite; if there are
            two flows among the weights; or if the flow preserves volume, without a scale.
    """
    weights = _of_one_flow(weights)
    config = _config_of(weights, head_dim)
    with torch.device("meta"):
        flow = kind(config)
    shapes = {name: tuple(weight.shape) for name, weight in flow.state_dict().items()}
    names = dict(_names(config))
    unknown = sorted(weights.keys() - names.keys() - _buffers(config))
    if unknown:
        raise ValueError(
            f"Expected the weights of a TarFlow of {len(config.depths)} blocks and "
            f"{config.num_classes} classes; got {unknown[0]} too, which it has not. Give "
            "all weights of one TarFlow; other architectures, such as STARFlow, cannot be loaded."
        )
    check_finite({name: weights[name] for name in names if name in weights}, "load")
    is_double = all(weights[name].dtype == torch.float64 for name in names if name in weights)
    dtype = torch.float64 if is_double else torch.float32
    found: dict[str, Tensor] = {}
    for theirs, ours in names.items():
        shape = shapes[ours]
        wanted = (shape[0], 1, shape[1]) if theirs.endswith("class_embed") else shape
        weight = weights.get(theirs)
        if weight is None or tuple(weight.shape) != wanted:
            got = "none" if weight is None else tuple(weight.shape)
            raise ValueError(
                f"Expected {theirs} of shape {wanted}; got {got}. Give all weights of one TarFlow "
                "that learns a scale (nvp)."
            )
        found[ours] = weight.detach().to("cpu", dtype, copy=True).reshape(shape)
    _check_prior(weights)
    flow.load_state_dict(found, assign=True)
    return flow.requires_grad_()


def _of_one_flow(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights by names without what they begin with, "module." say."""
    weights = {str(name).replace("_orig_mod.", ""): weight for name, weight in weights.items()}
    prefixes = [name.removesuffix(_FIRST) for name in weights if name.endswith(_FIRST)]
    if not prefixes:
        raise ValueError(
            f"Expected weights by TarFlow's names, {_FIRST} among them; got "
            f"{next(iter(weights), 'nothing')}. Give the state dict itself."
        )
    if len(prefixes) > 1:
        raise ValueError(
            f"Expected the weights of one flow; got those of {' and '.join(map(repr, prefixes))}. "
            "Take those whose names begin with one of them."
        )
    (prefix,) = prefixes
    return {
        name.removeprefix(prefix): weight
        for name, weight in weights.items()
        if name.startswith(prefix)
    }


def _config_of(weights: Mapping[str, Tensor], head_dim: int) -> TarFlowConfig:
    """Read the shape of the flow off its weights."""
    found = (re.match(r"blocks\.(\d+)\.attn_blocks\.(\d+)\.", name) for name in weights)
    layers = {(int(match[1]), int(match[2])) for match in found if match}
    depths = Counter(block for block, _ in layers)
    width, token_dim = _with_axes(weights, _FIRST, 2).shape
    places = _with_axes(weights, "blocks.0.pos_embed", 2)
    hidden = _with_axes(weights, "blocks.0.attn_blocks.0.mlp.main.0.bias", 1)
    has_classes = "blocks.0.class_embed" in weights
    classes = _with_axes(weights, "blocks.0.class_embed", 3) if has_classes else ()
    return TarFlowConfig(
        num_tokens=len(places),
        token_dim=token_dim,
        width=width,
        depths=tuple(depths[block] for block in range(1 + max(depths))),
        head_dim=head_dim,
        num_classes=len(classes),
        gate="none",
        log_scale_bound=None,
        mlp_ratio=len(hidden) // width,
    )


def _with_axes(weights: Mapping[str, Any], name: str, axes: int) -> Tensor:
    weight = weights.get(name)
    if not isinstance(weight, Tensor) or weight.ndim != axes:
        got = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
        raise ValueError(
            f"Expected {name} with {axes} axes; got {'none' if weight is None else got}. Give all "
            "weights of one TarFlow, as tensors."
        )
    return weight


def _names(config: TarFlowConfig) -> Iterator[tuple[str, str]]:
    """Yield TarFlow's name of each weight, and ours."""
    for block, depth in enumerate(config.depths):
        at = f"blocks.{block}"
        yield f"{at}.pos_embed", f"{at}.positions"
        if config.num_classes:
            yield f"{at}.class_embed", f"{at}.classes"
        modules = {f"{at}.proj_in": f"{at}.project_in", f"{at}.proj_out": f"{at}.head"}
        for layer in range(depth):
            theirs, ours = f"{at}.attn_blocks.{layer}", f"{at}.layers.{layer}"
            modules |= {
                f"{theirs}.attention.norm": f"{ours}.attention_norm",
                f"{theirs}.attention.qkv": f"{ours}.attention.qkv_and_gate",
                f"{theirs}.attention.proj": f"{ours}.attention.project_out",
                f"{theirs}.mlp.norm": f"{ours}.mlp_norm",
                f"{theirs}.mlp.main.0": f"{ours}.mlp_in",
                f"{theirs}.mlp.main.2": f"{ours}.mlp_out",
            }
        for theirs, ours in modules.items():
            yield f"{theirs}.weight", f"{ours}.weight"
            yield f"{theirs}.bias", f"{ours}.bias"


def _buffers(config: TarFlowConfig) -> set[str]:
    """Return the names of what is saved and not learned: causal masks, and the prior's variance."""
    return {"var", *(f"blocks.{block}.attn_mask" for block in range(len(config.depths)))}


def _check_prior(weights: Mapping[str, Tensor]) -> None:
    variance = weights.get("var")
    if variance is not None and not torch.allclose(variance.float(), torch.ones(())):
        raise ValueError(
            f"Expected var to be 1, the prior N(0, I); got values up to {float(variance.max()):g}. "
            "Volume-preserving flows, which learn it, cannot be loaded."
        )
