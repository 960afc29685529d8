"""For every test: torch is seeded, and processes side by side have one thread each."""

import os

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several processes one thread, so that none waits for another's core."""
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # before xdist starts them


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Draw the same numbers whichever tests ran before: seed ahead of the fixtures."""
    torch.manual_seed(0)
