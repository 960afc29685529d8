"""What bfloat16 GEMMs cost a trained flow in accuracy: errors against its own float64 copy.

Run with `uv run python benchmarks/flow_precision.py`; prints the tables of flow_precision.md.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor

from tarflow_prior import Sequential, TarFlow, TarFlowConfig, nll_per_dim
from tarflow_prior.affine import Affine
from tarflow_prior.block import Block

TOKENS, DIM, STEPS = 32, 8, 300
CONFIG = TarFlowConfig(num_tokens=TOKENS, token_dim=DIM, width=128, depths=(2,) * 4)


def markov_chain(count: int, mixing: Tensor) -> Tensor:
    """Sequences in which a token depends on the one before it, in mean and in deviation."""
    noise = torch.randn(count, TOKENS, DIM)
    tokens = [noise[:, 0]]
    for t in range(1, TOKENS):
        past = tokens[-1]
        mean = 0.8 * (past @ mixing).tanh() + 0.3 * past.sin()
        tokens.append(mean + (0.3 + 0.3 * past.roll(1, -1).sigmoid()) * noise[:, t])
    return torch.stack(tokens, dim=1)


def trained(mixing: Tensor) -> TarFlow:
    flow = TarFlow(CONFIG)
    optimizer = torch.optim.AdamW(flow.parameters(), lr=1e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        nll_per_dim(flow(markov_chain(64, mixing))).mean().backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
    return flow


def rms(tensor: Tensor) -> float:
    return tensor.double().square().mean().sqrt().item()


class Wanted(NamedTuple):
    """What the float64 copy of a flow makes of the same data and noise."""

    u: Tensor
    log_det: Tensor
    samples: Tensor


@torch.no_grad()
def row(name: str, flow: TarFlow, wanted: Wanted, z: Tensor, u: Tensor, polish: int = 0) -> None:
    solver = Sequential(polish=polish)
    with torch.autocast("cpu", torch.bfloat16, enabled=name != "float32"):
        output = flow(z)
        back, samples = (flow.inverse(noise, solver=solver) for noise in (output.u, u))
    log_det = (output.log_det - wanted.log_det).abs() / (TOKENS * DIM)
    errors = (rms(back - z), rms(output.u - wanted.u), rms(samples - wanted.samples))
    print(
        f"| {name} | "
        + " | ".join(f"{e:.1e}" for e in (*errors, rms(log_det), log_det.max()))
        + " |"
    )


def rounding(predict: Callable[..., Affine]) -> Callable[..., Affine]:
    """Round what the head predicts, as an ambient autocast over everything does."""

    def rounded(*args: object) -> Affine:
        return Affine(*(part.bfloat16().float() for part in predict(*args)))

    return rounded


def main() -> None:
    torch.manual_seed(0)
    mixing = torch.randn(DIM, DIM) / DIM**0.5
    flow = trained(mixing)
    z, u = markov_chain(512, mixing), torch.randn(512, TOKENS, DIM)
    with torch.no_grad():
        exact = copy.deepcopy(flow).double()
        wanted = Wanted(*exact(z), exact.inverse(u))  # before anything is rounded
        print(f"held-out NLL {nll_per_dim(flow(z)).mean():.4f} nats per dimension")
    print("| GEMMs | round trip | noise | samples | log-det per dim | its worst |\n" + "|---" * 6)
    row("float32", flow, wanted, z, u)
    with mock.patch.object(Block, "affine", rounding(Block.affine)):
        row("bfloat16, head's output rounded too", flow, wanted, z, u)
    row("bfloat16 (ours)", flow, wanted, z, u)
    for polish in (1, 3, 8):
        row(f"ours, {polish} sweep{'s' * (polish > 1)} of polish", flow, wanted, z, u, polish)


if __name__ == "__main__":
    main()
