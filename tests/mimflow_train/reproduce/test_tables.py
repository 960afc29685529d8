"""SD-VAE, as Table 2 counts it."""

from collections import Counter

import pytest
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.upsampling import Upsample2D
from torch import nn

from mimflow_train.config import ConvolutionalConfig
from mimflow_train.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from mimflow_train.reproduce.experiments import EXPERIMENTS
from mimflow_train.reproduce.tables import count_parameters


@pytest.fixture(scope="module")
def counted():
    row, _ = count_parameters(EXPERIMENTS["table2"]).rows
    return row.ours


def test_it_has_the_published_number_of_parameters(counted):
    assert counted["parameters_m"] == (83.653863,)


def test_its_work_is_the_papers_to_the_last_digit_if_counted_by_fvcores_rules(counted):
    others = Counter()

    def count(module, inputs, output):
        if isinstance(module, nn.GroupNorm):
            others["norms"] += 5 * output.numel()
        elif isinstance(module, Upsample2D):
            others["enlarged"] += 4 * inputs[0].numel()
        elif isinstance(module, Attention):  # two products, fused, of each of which it sees none
            _, channels, rows, columns = inputs[0].shape
            others["attention"] -= 2 * channels * (rows * columns) ** 2

    with torch.device("meta"):
        config = ConvolutionalConfig()
        networks = ConvolutionalEncoder(config, 0.3), ConvolutionalDecoder(config)
        for module in (part for network in networks for part in network.modules()):
            module.register_forward_hook(count)
        encoder, decoder = networks
        decoder(encoder(torch.zeros(1, 3, 256, 256)).mean)
    assert set(others) == {"norms", "enlarged", "attention"}
    assert counted["gmac"][0] + others.total() / 1e9 == pytest.approx(446.21, abs=0.005)
