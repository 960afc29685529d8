from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tarflow_prior import TarFlow, TarFlowConfig


def _random_flow(config: TarFlowConfig, *, head_std: float = 0.1) -> TarFlow:
    """A float64 flow with random heads and tables, so that nothing is near the identity."""
    generator = torch.Generator().manual_seed(1)
    flow = TarFlow(config).double()
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            if ".head." in name:
                parameter.copy_(head_std * noise)
            elif "positions" in name or "classes" in name:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(0.25 * noise + ("norm.weight" in name))
    return flow


def _random_batch(config: TarFlowConfig, batch: int = 2) -> tuple[Tensor, Tensor | None]:
    """Tokens, and labels that mix classes with the null class."""
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(
        batch, config.num_tokens, config.token_dim, generator=generator, dtype=torch.float64
    )
    if config.num_classes == 0:
        return z, None
    return z, torch.arange(-1, batch - 1).remainder(config.num_classes + 1) - 1


@pytest.fixture(scope="session")
def random_flow() -> Callable[..., TarFlow]:
    return _random_flow


@pytest.fixture(scope="session")
def random_batch() -> Callable[..., tuple[Tensor, Tensor | None]]:
    return _random_batch


@pytest.fixture
def config() -> TarFlowConfig:
    """Sizes prime and unequal, so that swapped axes fail; three blocks, both token orders."""
    return TarFlowConfig(
        num_tokens=5, token_dim=3, width=16, head_dim=8, depths=(1, 2, 2), num_classes=4
    )
