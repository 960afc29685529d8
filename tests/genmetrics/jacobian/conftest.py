import pytest
import torch
from torch import nn


def orthogonal(d, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q


class Linear:
    """The map with given singular values, and its inverse."""

    def __init__(self, values, seed=0):
        d = len(values)
        left, right = orthogonal(d, seed), orthogonal(d, seed + 1)
        self.matrix = left @ torch.diag(values) @ right
        self._inverse = right.T @ torch.diag(1 / values) @ left.T

    def __call__(self, x):
        return x @ self.matrix.T

    def inverse(self, y):
        return y @ self._inverse.T


class ToyBlock:
    """Shift and log-scale of each token are smooth functions of the tokens before it."""

    def __init__(self, t, c, *, flipped, seed, strength=1.0):
        generator = torch.Generator().manual_seed(seed)
        weights = torch.randn(2, t, c, t, c, generator=generator, dtype=torch.float64)
        past = torch.ones(t, t, dtype=torch.float64).tril(-1)
        self.shift_weight, self.scale_weight = strength * weights * past[:, None, :, None]
        self.flipped = flipped

    def log_scale(self, x):
        return torch.tanh(torch.einsum("tcsd,bsd->btc", self.scale_weight, x))

    def __call__(self, x):
        shift = torch.sin(torch.einsum("tcsd,bsd->btc", self.shift_weight, x))
        return (x - shift) * torch.exp(-self.log_scale(x))

    def permute(self, x):
        return x.flip(1) if self.flipped else x

    unpermute = permute

    def inverse(self, z):
        x = torch.zeros_like(z)
        for _ in range(z.shape[1]):
            shift = torch.sin(torch.einsum("tcsd,bsd->btc", self.shift_weight, x))
            x = z * torch.exp(self.log_scale(x)) + shift
        return x


class ToyFlow:
    """A few blocks, each in its own token order; returns the value and log |det J|."""

    def __init__(self, t, c, num_blocks=3, strength=1.0):
        self.blocks = [
            ToyBlock(t, c, flipped=index % 2 == 1, seed=index, strength=strength)
            for index in range(num_blocks)
        ]

    def __call__(self, x):
        log_det = torch.zeros(len(x), dtype=x.dtype)
        for block in self.blocks:
            ordered = block.permute(x)
            log_det = log_det - block.log_scale(ordered).sum(dim=(1, 2))
            x = block.unpermute(block(ordered))
        return x, log_det

    def inverse(self, z):
        for block in reversed(self.blocks):
            z = block.unpermute(block.inverse(block.permute(z)))
        return z


class AttentionMap(nn.Module):
    """One causal attention layer on top of the identity, with dropout."""

    def __init__(self, c=4):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(3 * c, c, generator=generator, dtype=torch.float64)
        self.weight = nn.Parameter(weight)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        qkv = (x @ self.weight.T).chunk(3, dim=-1)
        q, k, v = (part[:, None] for part in qkv)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.dropout(attended[:, 0])


@pytest.fixture
def log_uniform():
    """Make a map with singular values from 1 down to 1 / kappa at equal ratios."""

    def make(d, kappa):
        return Linear(torch.logspace(0, -torch.tensor(kappa).log10().item(), d).double())

    return make


@pytest.fixture
def linear():
    return Linear


@pytest.fixture
def toy_flow():
    return ToyFlow(5, 3)


@pytest.fixture
def make_toy_flow():
    return ToyFlow


@pytest.fixture
def attention_map():
    return AttentionMap()


@pytest.fixture
def points():
    """Make seeded standard normal samples in float64."""

    def make(*shape, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return make
