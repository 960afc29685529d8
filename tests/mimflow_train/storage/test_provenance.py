import subprocess
from pathlib import Path

import torch

from mimflow_train.storage import provenance


def test_commit_is_that_of_the_checkout(monkeypatch):
    monkeypatch.setattr(provenance, "__file__", __file__)
    head = subprocess.run(
        ["git", "-C", ".", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout
    provenance.code_commit.cache_clear()
    assert head.startswith(provenance.code_commit().removesuffix("+"))


def test_code_that_lies_in_a_checkout_of_something_else_has_no_commit(monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(Path(torch.__file__)))  # .venv is in this one
    provenance.code_commit.cache_clear()
    assert provenance.code_commit() is None
    provenance.code_commit.cache_clear()


def test_code_outside_a_checkout_has_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    provenance.code_commit.cache_clear()
    assert provenance.code_commit() is None
    provenance.code_commit.cache_clear()
