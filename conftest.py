"""Every test draws the same numbers from torch, whichever tests ran before it in its process."""

import pytest
import torch


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed torch before anything of a test is made, its fixtures included."""
    torch.manual_seed(0)
