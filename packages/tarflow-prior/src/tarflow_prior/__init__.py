"""A transformer autoregressive flow: an exact-likelihood prior over token sequences.

The names below load on first use (PEP 562), so that reading or checking a config costs no
import of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tarflow_prior.block import Block, FlowOutput, nll_per_dim
    from tarflow_prior.config import TarFlowConfig
    from tarflow_prior.decoding import Decoded, Decoder
    from tarflow_prior.errors import NonFiniteError
    from tarflow_prior.flow import TarFlow
    from tarflow_prior.guidance import Guidance
    from tarflow_prior.solvers import Auto, GaussSeidel, Jacobi, Sequential
    from tarflow_prior.triangular import TriangularBlock, triangular_blocks

__all__ = [
    "Auto",
    "Block",
    "Decoded",
    "Decoder",
    "FlowOutput",
    "GaussSeidel",
    "Guidance",
    "Jacobi",
    "NonFiniteError",
    "Sequential",
    "TarFlow",
    "TarFlowConfig",
    "TriangularBlock",
    "nll_per_dim",
    "triangular_blocks",
]

_HOME = {
    "Auto": "solvers",
    "Block": "block",
    "Decoded": "decoding",
    "Decoder": "decoding",
    "FlowOutput": "block",
    "GaussSeidel": "solvers",
    "Guidance": "guidance",
    "Jacobi": "solvers",
    "NonFiniteError": "errors",
    "Sequential": "solvers",
    "TarFlow": "flow",
    "TarFlowConfig": "config",
    "TriangularBlock": "triangular",
    "nll_per_dim": "block",
    "triangular_blocks": "triangular",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    except AttributeError as error:  # Python would hide it behind "cannot import name"
        raise ImportError(f"tarflow_prior.{_HOME[name]} failed to load: {error}") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
