"""What a flow accepts: tokens, labels and weights, each refused in one sentence."""

import math
from collections.abc import Iterable
from numbers import Integral, Real

import torch
from torch import Tensor, nn

from tarflow_prior.config import TarFlowConfig, check_type
from tarflow_prior.guidance import Guidance
from tarflow_prior.solvers import Solver

NULL_CLASS = -1


def accepted_tokens(tokens: Tensor, config: TarFlowConfig, dtype: torch.dtype) -> Tensor:
    """Check the tokens against the config and cast them to the dtype of the weights.

    Raises:
        TypeError: If they are no tensor.
        ValueError: If they have another shape, or the weights are neither float32 nor float64.
    """
    check_tensor(tokens=tokens)
    shape = (config.num_tokens, config.token_dim)
    if tokens.ndim != 3 or tokens.shape[1:] != shape:
        advice = "All sequences have the num_tokens and token_dim that the flow was built with."
        if tokens.ndim == 3 and tokens.shape[:0:-1] == shape:
            advice = "Transpose the tokens: z.mT."
        raise ValueError(
            f"Expected tokens of shape (b, {shape[0]}, {shape[1]}); got {tuple(tokens.shape)}. "
            f"{advice}"
        )
    if not tokens.is_floating_point():
        raise ValueError(
            f"Expected tokens of a floating dtype; got {tokens.dtype}. Convert them to float32."
        )
    check_precision(dtype)
    return tokens.to(dtype)


def check_tensor(**values: object) -> None:
    """Check that a value is a tensor, naming it.

    Raises:
        TypeError: If it is not.
    """
    check_type(Tensor, "a torch.Tensor", "Convert with torch.as_tensor.", **values)


def check_precision(dtype: torch.dtype) -> None:
    """Check the dtype of the weights.

    Raises:
        ValueError: If it is neither float32 nor float64.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"Expected float32 or float64 weights; got {dtype}. "
            "Keep the weights in float32 and run the flow under torch.autocast."
        )


def check_whole(modules: Iterable[nn.Module], advice: str) -> None:
    """Check that this process has the weights whole.

    Raises:
        RuntimeError: If one is sharded, by FSDP, say.
    """
    for module in modules:
        for name, weight in module.named_parameters():
            if hasattr(weight, "placements"):  # as torch's DTensor has; its import is slow
                raise RuntimeError(f"Expected whole weights; got {name} in shards. {advice}")


def accepted_labels(label: Tensor, config: TarFlowConfig, batch: int) -> Tensor:
    """Check all of labels but their range, which would have to be read, and cast them to int64.

    Raises:
        TypeError: If they are no tensor.
        ValueError: If they are not integers, not one for each sample, or the flow has no classes.
    """
    check_tensor(label=label)
    if label.is_floating_point() or label.is_complex() or label.dtype == torch.bool:
        raise ValueError(
            f"Expected integer labels; got {label.dtype}. "
            "A flow is conditional on classes alone: convert their numbers with label.long()."
        )
    if label.shape != (batch,):
        advice = "Repeat or cut the labels." if label.ndim else f"Write label.expand({batch})."
        raise ValueError(
            f"Expected one label for each of {batch} samples; got shape {tuple(label.shape)}. "
            f"{advice}"
        )
    if config.num_classes == 0:
        raise ValueError(
            "Expected label None for a flow without classes; got labels. "
            "Leave the label out, or build the flow with num_classes."
        )
    return label.long()


def check_range(label: Tensor, config: TarFlowConfig) -> None:
    """Check the range of accepted labels, reading them back from their device.

    Raises:
        ValueError: If a label is out of range.
    """
    outside = label[(label < NULL_CLASS) | (label >= config.num_classes)]
    if len(outside):
        raise ValueError(
            f"Expected labels in 0..{config.num_classes - 1}, or -1 for the null class; "
            f"got {outside[0].item()}. Check num_classes of the config."
        )


def check_range_if_free(label: Tensor, config: TarFlowConfig) -> None:
    """Check the range of accepted labels if nothing waits for it.

    Raises:
        ValueError: If a label is out of range.
    """
    if _is_free_to_read(label):
        check_range(label, config)


def _is_free_to_read(label: Tensor) -> bool:
    """Tell whether labels are on the CPU, in no graph and in no vmap."""
    if label.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    functorch = torch._C._functorch  # torch.func has no public way to ask
    while functorch.is_gradtrackingtensor(label):
        label = functorch.get_unwrapped(label)
    return not functorch.is_batchedtensor(label)


def labels_in_range(label: Tensor, config: TarFlowConfig, batch: int) -> Tensor:
    """Check all of labels, reading them back from their device, and cast them to int64.

    Raises:
        TypeError, ValueError: As :func:`accepted_labels` and :func:`check_range`.
    """
    label = accepted_labels(label, config, batch)
    check_range(label, config)
    return label


def check_count(count: int) -> None:
    """Check how many samples were asked for.

    Raises:
        TypeError: If it is neither a number nor a tensor of labels.
        ValueError: If it is negative.
    """
    kinds = "a tensor of labels or a number of samples"
    advice = "Write torch.tensor([3, 7]) for classes, or 8 for eight samples."
    check_type(Integral, kinds, advice, label_or_count=count)
    if count < 0:
        raise ValueError(f"Expected a count of at least 0; got {count}. Ask for 1 or more.")


def check_noise(temperature: float, generator: torch.Generator | None) -> None:
    """Check how the noise of samples is drawn.

    Raises:
        TypeError: If the temperature is no number, or the generator no generator, a seed, say.
        ValueError: If the temperature is negative or not finite.
    """
    check_type(Real, "a number", "Use 1 for the model's own.", temperature=temperature)
    if not 0 <= temperature < math.inf:
        raise ValueError(
            f"Expected temperature of at least 0 and finite; got {temperature}. "
            "Use 1 for the model's own."
        )
    if generator is not None:
        kinds, advice = "a torch.Generator or None", "Write torch.Generator().manual_seed(5)."
        check_type(torch.Generator, kinds, advice, generator=generator)


def check_config(config: TarFlowConfig) -> None:
    """Check what a flow is built from.

    Raises:
        TypeError: If it is no config, the name of a preset, say.
    """
    advice = 'Write TarFlowConfig.preset("tiny", num_tokens=16, token_dim=8), say.'
    check_type(TarFlowConfig, "a TarFlowConfig", advice, config=config)


def check_options(guidance: Guidance | None, solver: Solver | None) -> None:
    """Check the options of decoding, which check their own fields.

    Raises:
        TypeError: If one is of another type.
    """
    if guidance is not None:
        check_type(Guidance, "a Guidance or None", "Write Guidance(2.0).", guidance=guidance)
    if solver is not None:
        check_type(Solver, "a solver or None", "Write Jacobi() or another.", solver=solver)


def check_tile(tile: int | None) -> None:
    """Check the number of samples that are decoded together.

    Raises:
        ValueError: If it is not a power of two: threads that share other numbers of rows were
            seen to round a row by its place.
    """
    if tile is not None:
        check_type(Integral, "a whole number or None", "Write 16.", tile=tile)
    if tile is not None and (tile < 1 or tile & (tile - 1)):
        raise ValueError(
            f"Expected tile to be a power of two; got {tile}. Use 16, or None for no tiles."
        )
