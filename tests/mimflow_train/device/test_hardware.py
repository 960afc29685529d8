import pytest
import torch

from mimflow_train.device import hardware
from mimflow_train.device.hardware import (
    HARDWARE,
    detect,
    find_hardware,
    matmul_rate,
    named_hardware,
)
from mimflow_train.errors import ConfigError


@pytest.mark.parametrize(
    ("driver", "name", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100 80GB", 312),
        ("NVIDIA A100 80GB PCIe", "A100 80GB", 312),
        ("NVIDIA A100-PCIE-40GB", "A100", 312),
        ("NVIDIA H100 80GB HBM3", "H100", 989),
        ("NVIDIA H100 PCIe", "H100 PCIe", 756),
        ("NVIDIA H100 NVL", "H100 NVL", 835),
        ("NVIDIA H200", "H200", 989),
        ("NVIDIA H20", "H20", 148),
        ("NVIDIA L40S", "L40S", 362),
        ("NVIDIA L40", "L40", 181),
        ("NVIDIA L4", "L4", 121),
        ("NVIDIA GeForce RTX 4090", "RTX 4090", 165.2),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada", 364.2),
        ("AMD Instinct MI300X", "MI300X", 1307),
    ],
)
def test_card_is_known_by_its_driver_s_name(driver, name, tflops):
    assert find_hardware(driver)[:2] == (name, tflops)


@pytest.mark.parametrize(
    "driver",
    [
        "NVIDIA GH200 480GB",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
        "Quadro RTX 6000",
        "Tesla V100-SXM2-32GB",
    ],
)
def test_card_like_a_known_one_is_not_taken_for_it(driver):
    assert find_hardware(driver) is None


@pytest.mark.parametrize("card", HARDWARE, ids=lambda card: card.name)
def test_every_card_is_found_by_its_own_name(card):
    assert named_hardware(card.name.lower()) == card


def test_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"--hardware to be one of A100 80GB, .*; got TPU v4\."):
        named_hardware("TPU v4")


def test_cpu_has_no_peak():
    assert detect(torch.device("cpu")) is None


def test_detected_card_has_the_memory_that_the_driver_says(monkeypatch):
    class Card:
        name, total_memory = "NVIDIA H100 80GB HBM3", 79 * 2**30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card)
    assert detect() == ("H100", 989, 79.0, 3.35)


def test_rate_is_two_operations_for_each_multiply_add(monkeypatch):
    ticks = iter([0.0, 0.5, 1.0, 2.0])
    monkeypatch.setattr(hardware.time, "perf_counter", lambda: next(ticks))
    assert matmul_rate(2.0) == 2 * 1024**3 * 2 / 2.0
