"""Every test draws the same random numbers, whichever tests ran before it in its process."""

import pytest
import torch


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    torch.manual_seed(0)
