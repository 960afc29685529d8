"""The whole flow once more in numpy, from the equations: no torch, no cache, no batching tricks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tarflow_prior import Guidance


class Oracle:
    def __init__(self, flow):
        self.config = flow.config
        self.weights = {name: value.numpy() for name, value in flow.state_dict().items()}

    def linear(self, name, x):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, name, x):
        centred = x - x.mean(-1, keepdims=True)
        x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def attention(self, name, h, temperature):
        width, head_dim = self.config.width, self.config.head_dim
        everything = self.linear(f"{name}.qkv_and_gate", h)
        query, key, value, gate = np.split(everything, [width, 2 * width, 3 * width], axis=1)
        if self.config.gate == "headwise":
            gate = np.repeat(gate, head_dim, axis=1)
        out = np.zeros_like(h)
        for start in range(0, width, head_dim):
            head = slice(start, start + head_dim)
            for t in range(len(h)):
                logits = key[: t + 1, head] @ query[t, head] / math.sqrt(head_dim) / temperature
                weights = np.exp(logits - logits.max())
                out[t, head] = weights @ value[: t + 1, head] / weights.sum()
        if self.config.gate != "none":
            out = out / (1 + np.exp(-gate))
        return self.linear(f"{name}.project_out", out)

    def affine(self, block, past, label, temperature=1):
        """Shift and log-scale of the token that follows ``past``, in decoding order."""
        name, length = f"blocks.{block}", self.config.num_tokens
        order = range(length)[::-1] if block % 2 else range(length)
        h = self.linear(f"{name}.project_in", past)
        h = h + self.weights[f"{name}.positions"][list(order)[: len(past)]]
        if self.config.num_classes:
            classes = self.weights[f"{name}.classes"]
            h = h + (classes.mean(0) if label == -1 else classes[label])
        for layer in range(self.config.depths[block]):
            at = f"{name}.layers.{layer}"
            h = h + self.attention(
                f"{at}.attention", self.norm(f"{at}.attention_norm", h), temperature
            )
            hidden = self.linear(f"{at}.mlp_in", self.norm(f"{at}.mlp_norm", h))
            hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
            h = h + self.linear(f"{at}.mlp_out", hidden)
        a, shift = np.split(self.linear(f"{name}.head", h[-1]), 2)
        if self.config.log_scale_bound is not None:
            a = self.config.log_scale_bound * np.tanh(a / self.config.log_scale_bound)
        if self.config.scale == "softplus":
            a = np.log(np.log1p((math.e - 1) * np.exp(a)))
        return shift, a

    def forward(self, z, label):
        log_det = 0.0
        for block in range(len(self.config.depths)):
            tokens = z[::-1] if block % 2 else z
            u = tokens.copy()
            for t in range(1, len(z)):
                shift, a = self.affine(block, tokens[:t], label)
                u[t] = (tokens[t] - shift) / np.exp(a)
                log_det -= a.sum()
            z = u[::-1] if block % 2 else u
        return z, log_det

    def inverse(self, u, label, guidance=None):
        last_block = len(self.config.depths) - 1
        for block in range(last_block, -1, -1):
            tokens = (u[::-1] if block % 2 else u).copy()
            for t in range(1, len(u)):
                shift, a = self.affine(block, tokens[:t], label)
                if guidance and (guidance.blocks == "all" or block == last_block):
                    null = self.affine(block, tokens[:t], -1, guidance.attention_temperature)
                    shift, a = self.guided(guidance, (shift, a), null, t / (len(u) - 1))
                tokens[t] = tokens[t] * np.exp(a) + shift
            u = tokens[::-1] if block % 2 else tokens
        return u

    @staticmethod
    def guided(guidance, conditional, null, fraction):
        (shift_c, a_c), (shift_u, a_u) = conditional, null
        low, high = guidance.interval
        w = guidance.scale * (fraction if guidance.ramp == "linear" else 1)
        w = w if low <= fraction <= high else 0
        if guidance.rule == "tarflow":
            return shift_c + w * (shift_c - shift_u), a_c + w * (a_c - a_u)
        s = np.minimum(np.exp(a_c) / np.exp(a_u), 1) ** 2
        sigma = np.exp(a_c) / np.sqrt(1 + w - w * s)
        return ((1 + w) * shift_c - w * s * shift_u) / (1 + w - w * s), np.log(sigma)


@pytest.fixture(params=["elementwise", "headwise", "none"])
def gate(request):
    return request.param


@pytest.fixture(params=["exp", "softplus"])
def flow(request, config, gate, random_flow):
    return random_flow(replace(config, gate=gate, scale=request.param, max_positions=7))


LABELS = torch.tensor([-1, 0, 3])


def test_forward_matches_the_equations(flow, random_batch):
    z, _ = random_batch(flow.config, batch=3)
    output = flow(z, LABELS)
    for row in range(3):
        u, log_det = Oracle(flow).forward(z[row].numpy(), LABELS[row].item())
        np.testing.assert_allclose(output.u[row].detach().numpy(), u, atol=1e-9)
        np.testing.assert_allclose(output.log_det[row].item(), log_det, atol=1e-9)


@pytest.mark.parametrize(
    "guidance",
    [
        None,
        Guidance(2.0),
        Guidance(1.5, ramp="constant", interval=(0.5, 1.0), blocks="all"),
        Guidance(1.5, interval=(0.0, 0.5), blocks="all"),
        Guidance(2.0, rule="starflow"),
        Guidance(1.5, rule="starflow", ramp="constant", interval=(0.0, 1.0), blocks="all"),
        Guidance(1.5, attention_temperature=1.7, interval=(0.5, 1.0), blocks="all"),
        Guidance(1.5, attention_temperature=0.6, rule="starflow"),
    ],
    ids=repr,
)
def test_samples_match_the_equations(flow, guidance, random_batch):
    u, _ = random_batch(flow.config, batch=3)
    samples = flow.inverse(u, LABELS, guidance=guidance)
    for row in range(3):
        z = Oracle(flow).inverse(u[row].numpy(), LABELS[row].item(), guidance)
        np.testing.assert_allclose(samples[row].numpy(), z, atol=1e-9)


def test_flow_without_classes_matches_the_equations(config, random_flow, random_batch):
    flow = random_flow(replace(config, num_classes=0, log_scale_bound=None))
    z, _ = random_batch(flow.config)
    u, log_det = Oracle(flow).forward(z[0].numpy(), -1)
    output = flow(z)
    np.testing.assert_allclose(output.u[0].detach().numpy(), u, atol=1e-9)
    np.testing.assert_allclose(output.log_det[0].item(), log_det, atol=1e-9)
    guidance = Guidance(1.5, attention_temperature=1.7)
    expected = Oracle(flow).inverse(z[0].numpy(), -1, guidance)
    samples = flow.inverse(z, guidance=guidance)
    np.testing.assert_allclose(samples[0].numpy(), expected, atol=1e-9)
    assert (samples - flow.inverse(z)).abs().max() > 1e-3
