import contextlib

import pytest
import torch

from mimflow_train import micro_batches


@pytest.mark.parametrize("is_emulated", [True, False])
def test_a_card_that_only_emulates_bf16_computes_in_float32(monkeypatch, is_emulated):
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation
    )
    if not is_emulated:
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert micro_batches.is_bf16(torch.device("cuda"), "auto") is not is_emulated
