"""Products with the Jacobian of a batch of independent samples, one pass each."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from genmetrics.errors import BadInput, GenmetricsError, NumericalFailure, UsageError, one_of
from genmetrics.full_precision import full_float32

JvpMode = Literal["forward", "differences"]


@runtime_checkable
class LinearMap(Protocol):
    """One square matrix per sample, known by its products with vectors.

    Every row of an argument meets the matrix of its own sample.
    """

    @property
    def num_products(self) -> int:
        """Products so far, in units of one pass through the whole flow."""

    def push(self, v: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return ``J v``."""

    def pull(self, u: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return ``J^T u``."""


class Jacobian:
    """The Jacobian of ``f`` at each sample: ``J v`` in forward mode, ``J^T u`` in reverse mode.

    The graph of one evaluation is kept for all products ``J^T u``. Call everything inside
    :func:`deterministic`.

    Args:
        f: Maps the batch; a tuple that it returns is read as its value and ``log |det J|``.
        x: Where; the dtype is that of all products.
        jvp: ``differences`` takes central differences of ``f`` in place of forward mode, to about
            1e-9 in float64 and 1e-4 in float32.
        name: What errors call ``f``.

    Raises:
        UsageError: If ``f`` has no gradient, another dtype, or another number of dimensions, or
            raises an error, or there is no such ``jvp``.
        BadInput: If the value is not finite.

    Example:
        >>> x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
        >>> jacobian = Jacobian(lambda x: x**2, x)
        >>> jacobian.pull(torch.ones_like(x)).tolist()
        [[2.0, 4.0]]
    """

    def __init__(
        self,
        f: Callable[[Tensor], Any],
        x: Float[Tensor, "b ..."],
        *,
        jvp: JvpMode = "forward",
        name: str = "f",
    ) -> None:
        one_of(get_args(JvpMode), jvp=jvp)
        self._f, self._jvp, self._name = f, jvp, name
        self.num_products = 0
        self._x = x.detach().requires_grad_()
        with torch.enable_grad(), _explained(name, x):
            output = f(self._x)
            self._y = _value(output)
        self._check()
        self.value = self._y.detach()
        self.log_det = _log_det(output, len(x))

    def push(self, v: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return ``J v``.

        Raises:
            UsageError: If an operation of ``f`` has no forward mode.
        """
        self.num_products += 1
        v = v.reshape(self._x.shape)
        moved = self._differences(v) if self._jvp == "differences" else self._tangent(v)
        return moved.flatten(1)

    def pull(self, u: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return ``J^T u``."""
        self.num_products += 1
        return self._gradient(u.reshape(self._y.shape)).flatten(1)

    def rows(self, units: Float[Tensor, "m d"]) -> Float[Tensor, "b m d"]:
        """Return ``J^T e`` for many vectors, the same for every sample, in one batched pass."""
        self.num_products += len(units)
        shape = self._y.shape
        gradients = torch.func.vmap(
            lambda unit: self._gradient(unit.reshape(1, *shape[1:]).expand(shape))
        )(units)
        return gradients.flatten(2).transpose(0, 1)

    def _tangent(self, v: Tensor) -> Tensor:
        with torch.no_grad(), forward_ad.dual_level(), _explained(self._name, v):
            output = self._f(forward_ad.make_dual(self._x.detach(), v))
            tangent = forward_ad.unpack_dual(_value(output)).tangent
        return torch.zeros_like(self.value) if tangent is None else tangent

    def _differences(self, v: Tensor) -> Tensor:
        """Step by eps^(1/3), where truncation and rounding are about equal."""
        x, size = self._x.detach(), (-1, *[1] * (v.ndim - 1))
        step = torch.finfo(x.dtype).eps ** (1 / 3) * (1 + _rms(x))
        h = (step / v.flatten(1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny)).reshape(size)
        with torch.no_grad():
            moved: Tensor = (_value(self._f(x + h * v)) - _value(self._f(x - h * v))) / (2 * h)
        return moved

    def _gradient(self, u: Tensor) -> Tensor:
        gradient: Tensor = torch.autograd.grad(
            self._y, self._x, u, retain_graph=True, materialize_grads=True
        )[0]
        return gradient

    def _check(self) -> None:
        x, y, name = self._x, self._y, self._name
        if not y.requires_grad:
            raise UsageError(
                f"Expected {name} to be differentiable; got a result without gradient. "
                "Remove no_grad, inference_mode and detach from it, or give blocks instead."
            )
        if len(y) != len(x) or y[0].numel() != x[0].numel():
            raise UsageError(
                f"Expected {name} to keep batch and dimensions of {tuple(x.shape)}; got "
                f"{tuple(y.shape)}. Give the map alone, without pooling."
            )
        if y.dtype != x.dtype:
            raise UsageError(
                f"Expected {name} in {x.dtype}; got {y.dtype}. "
                "Cast its weights (model.double()), or choose that dtype."
            )
        bad = (~torch.isfinite(y.detach().flatten(1))).any(dim=1).nonzero().flatten().tolist()
        if bad:
            raise BadInput(
                f"Expected a finite {name} at every sample; got NaN or infinity at {bad[:5]}. "
                "Check these latents and the weights."
            )


def check_independence(f: Callable[[Tensor], Any], x: Tensor, jacobian: Jacobian) -> None:
    """Raise UsageError unless ``f`` is a function that treats every sample by itself.

    A cotangent on the even samples must give an odd one no gradient, exactly, and a second
    evaluation the same value.
    """
    with torch.no_grad():
        again = _value(f(x))
    tol = torch.finfo(x.dtype).eps ** 0.5
    if not torch.allclose(again, jacobian.value, rtol=tol, atol=tol):
        raise UsageError(
            "Expected f to give one value for one input; got another the second time. "
            "Switch off dropout and other noise."
        )
    even = torch.zeros_like(x.flatten(1))
    even[::2] = 1
    if jacobian.pull(even)[1::2].any():
        raise UsageError(
            "Expected f to treat the samples of a batch independently; got a gradient from one "
            "to another. Switch off batch statistics (model.eval()), or pass one sample at a time."
        )


@contextmanager
def deterministic(device: torch.device, *functions: object) -> Iterator[None]:
    """Put the modules behind some functions into eval mode, and precision above speed.

    Attention runs on the MATH backend, the only one with forward mode; autocast and TF32 are off.

    Args:
        device: Where the functions run.
        functions: Modules, or methods of modules, or anything else, which is left alone.
    """
    owners = [getattr(f, "__self__", f) for f in functions]
    training = [m for o in owners if isinstance(o, nn.Module) for m in o.modules() if m.training]
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(full_float32(device))
        stack.enter_context(warnings.catch_warnings())
        # Forward mode compiles its rules by torch.jit at the first call and says so 18 times.
        warnings.filterwarnings("ignore", r"`torch\.jit\.script", FutureWarning)
        for module in training:
            stack.callback(setattr, module, "training", True)  # noqa: FBT003  # a value, no flag
            module.training = False
        yield


@contextmanager
def _explained(name: str, x: Tensor) -> Iterator[None]:
    """Turn what a function raises for samples ``x`` into what to do about it."""
    try:
        yield
    except (GenmetricsError, torch.OutOfMemoryError):
        raise
    except NotImplementedError as error:
        raise UsageError(
            f"Expected {name} to support forward-mode AD; got '{_first_line(error)}'. Use torch's "
            "own attention (it runs on the MATH backend here) in place of a fused kernel, or take "
            "finite differences (jvp='differences'), or method='exact'."
        ) from error
    except Exception as error:  # a function raises anything
        if isinstance(error, RuntimeError) and "dtype" in str(error):
            raise UsageError(
                f"Expected {name} to take the dtype of x; got '{_first_line(error)}'. "
                "Cast its weights (model.double()), or choose another dtype."
            ) from error
        if isinstance(error, RuntimeError) and "inference tensor" in str(error).lower():
            raise UsageError(
                f"Expected {name} of weights made outside inference mode; got "
                f"'{_first_line(error)}'. Build or load {name} outside of it."
            ) from error
        raise UsageError(
            f"Expected {name} to take samples of shape {tuple(x.shape)}; it raised "
            f"{type(error).__name__}: {_first_line(error)}. Check the shape of the samples."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:120]


def _value(output: Any) -> Tensor:
    value: object = output[0] if isinstance(output, tuple) else output
    if not isinstance(value, Tensor):
        raise UsageError(
            f"Expected a tensor, or a tuple that begins with one; got {type(value).__name__}. "
            "Wrap the model in a function."
        )
    return value


def _log_det(output: Any, b: int) -> Tensor | None:
    second = output[1] if isinstance(output, tuple) and len(output) > 1 else None
    is_one_each = isinstance(second, Tensor) and second.shape == (b,)
    return second.detach() if is_one_each else None  # type: ignore[union-attr]  # it is a tensor


def _rms(x: Tensor) -> Tensor:
    rms: Tensor = x.flatten(1).square().mean(dim=1).sqrt()
    return rms


def random_start(x: Float[Tensor, "b d"], seed: int) -> Float[Tensor, "b d"]:
    """Return one random unit vector, the same for every sample, drawn on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(x.shape[1], generator=generator, dtype=torch.float64)
    start: Tensor = (v / v.norm()).to(x).expand_as(x)
    return start.contiguous()


def certify(value: Tensor, name: str) -> None:
    """Raise NumericalFailure unless every estimate is a finite number."""
    bad = (~torch.isfinite(value)).nonzero().flatten().tolist()
    if bad:
        raise NumericalFailure(
            f"Expected a finite {name}; got NaN or infinity at samples {bad[:5]}. "
            "Take float64, or look at these samples in exact mode."
        )
