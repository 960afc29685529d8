"""The ends of the spectrum of a flow's Jacobian, at each of a batch of samples."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from genmetrics.checks import described
from genmetrics.errors import BadInput, UsageError, one_of
from genmetrics.jacobian.estimate import Estimate
from genmetrics.jacobian.exact import singular_values
from genmetrics.jacobian.inverse_cg import smallest_by_cg
from genmetrics.jacobian.lanczos import largest_by_lanczos
from genmetrics.jacobian.operators import (
    Jacobian,
    JvpMode,
    LinearMap,
    certify,
    check_independence,
    deterministic,
    random_start,
)
from genmetrics.jacobian.power import largest_by_power
from genmetrics.jacobian.result import Method, Smin, SpectrumResult, SpectrumSettings
from genmetrics.jacobian.triangular import FlowBlock, TriangularInverse

_SMALL = 512  # dimensions up to which d backward passes are cheaper than iterations
_MIN_PRODUCTS = 20
_LARGEST = {"gkl": largest_by_lanczos, "power": largest_by_power}


@torch.inference_mode(mode=False)  # evaluation often runs in it, where nothing has a derivative
def jacobian_spectrum(  # noqa: PLR0913  # the choices of a run, all of them recorded in its result
    f: Callable[[Tensor], Any],
    x: Float[Tensor, "b ..."],
    *,
    inverse: Callable[[Tensor], Any] | None = None,
    blocks: Sequence[FlowBlock] | None = None,
    method: Method = "auto",
    smin: Smin = "auto",
    delta: float = 1e-6,
    tol: float = 1e-3,
    max_products: int = 2000,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    jvp: JvpMode = "forward",
) -> SpectrumResult:
    """Estimate the largest and the smallest singular value of ``df/dx`` at each sample.

    Up to 512 dimensions both are of the explicit Jacobian. Above, products with it are one parallel
    pass of the flow each: the largest comes from Golub-Kahan-Lanczos bidiagonalisation, the
    smallest as one over the largest of the inverse's Jacobian. Modules run in eval mode, in the
    precision of ``dtype``.

    Args:
        f: The flow, from data to noise, of independent samples. A tuple that it returns is read
            as the value and ``log |det J|``.
        x: Samples; they are cast to ``dtype``.
        inverse: The inverse of ``f``, with gradients; not needed if there are ``blocks``.
        blocks: The autoregressive blocks that make up ``f``, for samples of tokens.
        method: How the largest is found: ``gkl``, ``power`` (the paper's), ``exact`` (all singular
            values, up to 8192 dimensions), or ``auto``: exact up to 512 dimensions if ``smin`` is
            auto too, else gkl.
        smin: How the smallest is found: from ``blocks`` by ``triangular`` solves, from the
            ``inverse``, by ``cg`` (the paper's; too large where kappa is), or ``auto``: the first
            of these for which there is what it needs.
        delta: Shift of ``J^T J`` for ``cg``, above 0; nothing else uses it.
        tol: Relative residual at which a sample is done.
        max_products: Products to spend on each of the two, at least 20; ``exact`` takes one for
            each dimension.
        dtype: float64, or float32 with a resolution of kappa up to 1e7.
        seed: Seed of the starting vector.
        jvp: ``differences`` replaces forward-mode AD by central differences.

    Raises:
        UsageError: If an option cannot be used, or ``f`` has no derivative, another dtype, mixes
            the samples of a batch, or raises an error.
        BadInput: If ``x`` is no batch, a value is not finite, or inverse or blocks do not belong
            to ``f``.
        NumericalFailure: If an estimate is not finite.

    Example:
        >>> scales = torch.tensor([1.0, 0.5, 4.0], dtype=torch.float64)
        >>> result = jacobian_spectrum(lambda x: scales * x, torch.zeros(2, 3))
        >>> result.sigma_max.tolist(), result.sigma_min.tolist()
        ([4.0, 4.0], [0.5, 0.5])
    """
    one_of(get_args(Method), method=method)
    one_of(get_args(Smin), smin=smin)
    if not isinstance(x, Tensor) or x.ndim < 2:
        raise BadInput(
            f"Expected samples as a tensor (b, ...), one in each row; got {described(x)}. "
            "Pass x[None] for one sample, torch.from_numpy(x) for an array."
        )
    if not x.numel():
        raise BadInput(f"Expected at least one number; got {tuple(x.shape)}. Pass some latents.")
    x = x.detach().to(dtype, copy=True)  # what inference mode made can never have a gradient
    method = _choose_method(method, smin, x)
    settings = SpectrumSettings(
        method=method,
        smin="exact" if method == "exact" else _choose_smin(smin, inverse, blocks),
        delta=delta,
        tol=tol,
        max_products=max_products,
        dtype=str(dtype).removeprefix("torch."),
        seed=seed,
        jvp=jvp,
    )
    _check(settings)
    _require_blocks(blocks)
    with deterministic(x.device, f, inverse, *(blocks or ())):
        jacobian = Jacobian(f, x, jvp=jvp)
        check_independence(f, x, jacobian)
        if settings.method == "exact":
            return _exact(jacobian, settings)
        largest = _largest(jacobian, x, settings)
        if settings.smin == "cg":
            smallest = smallest_by_cg(
                jacobian,
                random_start(x.flatten(1), seed),
                delta=delta,
                tol=tol,
                max_products=max_products,
            )
        elif settings.smin == "triangular":
            smallest = _smallest_by_blocks(blocks, x, jacobian, settings)
        else:
            smallest = _smallest_by_inverse(inverse, x, jacobian, settings)
    certify(largest.value, "sigma_max")
    certify(smallest.value, "sigma_min")
    return SpectrumResult(largest, smallest, x[0].numel(), settings, jacobian.log_det)


def _choose_method(method: Method, smin: Smin, x: Tensor) -> Method:
    if method == "exact" and smin != "auto":
        raise UsageError(
            f"Expected smin='auto' for method='exact', which finds all singular values; got "
            f"{smin!r}. Leave smin out, or take method='gkl'."
        )
    if method == "auto":
        return "exact" if smin == "auto" and x[0].numel() <= _SMALL else "gkl"
    return method


def _choose_smin(smin: Smin, inverse: object, blocks: object) -> Smin:
    for name, needed, argument in (
        ("triangular", blocks, "blocks"),
        ("inverse", inverse, "inverse"),
    ):
        if smin == name and needed is None:
            raise UsageError(f"Expected {argument} for smin={name!r}; got None. Pass them, or cg.")
    if smin == "auto":
        return "triangular" if blocks is not None else "inverse" if inverse is not None else "cg"
    return smin


def _require_blocks(blocks: object) -> None:
    for each in blocks if isinstance(blocks, Sequence) else ():
        if not isinstance(each, FlowBlock):
            raise UsageError(
                "Expected blocks that are called in their own order of tokens and have log_scale, "
                f"permute and unpermute; got {type(each).__name__}. Pass "
                "tarflow_prior.triangular_blocks(flow), say."
            )


def _check(settings: SpectrumSettings) -> None:
    if settings.dtype not in ("float32", "float64"):
        raise UsageError(f"Expected dtype float32 or float64; got {settings.dtype}. Take float64.")
    if not (settings.tol > 0 and settings.delta > 0):
        raise UsageError(
            f"Expected tol and delta above 0; got {settings.tol} and {settings.delta}. "
            "Try 1e-3 and 1e-6."
        )
    if settings.max_products < _MIN_PRODUCTS:
        raise UsageError(
            f"Expected max_products of at least {_MIN_PRODUCTS}; got {settings.max_products}. "
            "Try 2000."
        )


def _exact(jacobian: Jacobian, settings: SpectrumSettings) -> SpectrumResult:
    values = singular_values(jacobian)
    certify(values[:, 0], "sigma_max")
    done = torch.ones(len(values), dtype=torch.bool, device=values.device)
    largest = Estimate(
        value=values[:, 0],
        residual=torch.zeros_like(values[:, 0]),
        iterations=torch.zeros_like(done, dtype=torch.int64),
        converged=done,
        bound="exact",
        num_products=values.shape[1],
        method="exact",
    )
    smallest = replace(largest, value=values[:, -1])
    return SpectrumResult(
        largest, smallest, values.shape[1], settings, jacobian.log_det, singular_values=values
    )


def _largest(jacobian: LinearMap, x: Tensor, settings: SpectrumSettings) -> Estimate:
    return _LARGEST[settings.method](
        jacobian,
        random_start(x.flatten(1), settings.seed),
        tol=settings.tol,
        max_products=settings.max_products,
    )


def _reciprocal(largest: Estimate, method: str) -> Estimate:
    """Turn the largest singular value of the inverse into the smallest."""
    return replace(
        largest, value=1 / largest.value, bound="upper", method=f"{method}+{largest.method}"
    )


def _smallest_by_blocks(
    blocks: Sequence[FlowBlock] | None, x: Tensor, jacobian: Jacobian, settings: SpectrumSettings
) -> Estimate:
    if not blocks or x.ndim != 3:
        raise UsageError(
            f"Expected one block or more, and samples of tokens (b, t, c); got "
            f"{len(blocks or ())} and {tuple(x.shape)}. Choose smin='inverse' or 'cg'."
        )
    inverted = TriangularInverse(blocks, x, jacobian.value, jvp=settings.jvp)
    estimate = _reciprocal(_largest(inverted, x, settings), "triangular")
    return replace(estimate, converged=estimate.converged & (inverted.residual <= settings.tol))


def _smallest_by_inverse(
    inverse: Callable[[Tensor], Any] | None,
    x: Tensor,
    jacobian: Jacobian,
    settings: SpectrumSettings,
) -> Estimate:
    assert inverse is not None  # _choose_smin saw to it
    inverted = Jacobian(inverse, jacobian.value, jvp=settings.jvp, name="inverse")
    _check_inverse(inverted, jacobian, x, settings.seed)
    return _reciprocal(_largest(inverted, x, settings), "inverse")


def _check_inverse(inverted: Jacobian, jacobian: Jacobian, x: Tensor, seed: int) -> None:
    """Raise BadInput unless the inverse undoes ``f``, and its products are adjoint."""
    tol = torch.finfo(x.dtype).eps ** 0.25
    if not torch.allclose(inverted.value.flatten(1), x.flatten(1), rtol=tol, atol=tol):
        gap = (inverted.value.flatten(1) - x.flatten(1)).abs().max().item()
        raise BadInput(
            f"Expected inverse(f(x)) = x; got {gap:.2g} as the largest difference. "
            "Check that both have the same conditioning."
        )
    v, u = (random_start(x.flatten(1), seed + shift) for shift in (1, 2))
    pushed, pulled = inverted.push(jacobian.push(v)), inverted.pull(jacobian.pull(u))
    for derivative, found, expected in (("forward", pushed, v), ("reverse", pulled, u)):
        if not torch.allclose(found, expected, rtol=0, atol=1e-2):
            raise UsageError(
                f"Expected the {derivative} derivative of inverse to undo that of f; got "
                "another vector. Take jvp='differences' if the inverse is solved for rather than "
                "differentiated, or pass blocks."
            )
