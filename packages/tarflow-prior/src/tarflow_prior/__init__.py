"""A transformer autoregressive flow: an exact-likelihood prior over token sequences.

The names below load on first use (PEP 562), so that reading or checking a config costs no
import of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tarflow_prior.block import Block, FlowOutput
    from tarflow_prior.config import Guidance, TarFlowConfig
    from tarflow_prior.flow import TarFlow, nll_per_dim

__all__ = ["Block", "FlowOutput", "Guidance", "TarFlow", "TarFlowConfig", "nll_per_dim"]

_HOME = {
    "Block": "block",
    "FlowOutput": "block",
    "Guidance": "config",
    "TarFlow": "flow",
    "TarFlowConfig": "config",
    "nll_per_dim": "flow",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
