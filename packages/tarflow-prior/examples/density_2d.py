"""A flow fitted to a density that is known: two interlocking crescents.

Run with `uv run python packages/tarflow-prior/examples/density_2d.py --out crescents.png`. The two
coordinates are two tokens of one entry, so every block predicts one of them from the other.
"""

import argparse
import importlib.util
import math
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from tarflow_prior import TarFlow, TarFlowConfig, nll_per_dim

ALONG, ACROSS = Normal(0.0, 0.7), Normal(0.0, 0.2)
SIDE, CELLS = 4.0, 200  # the grid covers [-SIDE, SIDE]^2 with CELLS x CELLS midpoints


class Fit(NamedTuple):  # the integral over the grid, and log-densities of held-out points
    integral: float
    truth: Float[Tensor, " n"]
    flow: Float[Tensor, " n"]
    gaussian: Float[Tensor, " n"]


def crescents(count: int) -> Float[Tensor, "count 2"]:
    sign = 2.0 * torch.randint(2, (count, 1)) - 1
    along, noise = ALONG.sample((count,)), ACROSS.sample((count,))
    return sign * torch.stack([along - 0.6, (1.5 * along).cos() + noise], dim=1)


def true_log_density(points: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    x, y = torch.stack([points, -points]).unbind(-1)  # in the frame of each crescent
    along = x + 0.6
    log_prob: Tensor = ALONG.log_prob(along) + ACROSS.log_prob(y - (1.5 * along).cos())
    return log_prob.logsumexp(0) - math.log(2)


def log_density(flow: TarFlow, points: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    with torch.no_grad():
        chunks = rearrange(points, "n k -> n k 1").split(8192)
        return torch.cat([flow.log_prob(chunk) for chunk in chunks])


def train(flow: TarFlow, steps: int) -> None:
    optimizer = torch.optim.Adam(flow.parameters(), lr=4e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        tokens = rearrange(crescents(128), "b k -> b k 1")
        optimizer.zero_grad()
        nll_per_dim(flow(tokens)).mean().backward()
        optimizer.step()
        schedule.step()


def main(steps: int = 1000, out: str | None = None) -> Fit:
    torch.manual_seed(0)
    flow = TarFlow(TarFlowConfig(num_tokens=2, token_dim=1, width=64, head_dim=32, depths=(1,) * 4))
    train(flow, steps)
    held_out, seen = crescents(10_000), crescents(10_000)
    centres = ((torch.arange(CELLS) + 0.5) / CELLS - 0.5) * 2 * SIDE
    grid = torch.cartesian_prod(centres, centres)
    density = log_density(flow, grid).exp()
    if out:
        plot(out, [true_log_density(grid).exp(), density], flow.sample(5000))
    return Fit(
        density.sum().item() * (2 * SIDE / CELLS) ** 2,
        true_log_density(held_out),
        log_density(flow, held_out),
        MultivariateNormal(seen.mean(0), seen.T.cov()).log_prob(held_out),
    )


def plot(path: str, densities: list[Tensor], samples: Float[Tensor, "n 2 1"]) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    for axis, density, title in zip(axes, densities, ("truth", "learned"), strict=False):
        axis.set_title(title)
        image = rearrange(density, "(x y) -> y x", x=CELLS)
        axis.imshow(image, origin="lower", extent=(-SIDE, SIDE) * 2, vmax=densities[0].max())
    axes[2].scatter(*rearrange(samples, "n k 1 -> k n"), s=1)
    axes[2].set(title="samples of the flow", xlim=(-SIDE, SIDE), ylim=(-SIDE, SIDE), aspect="equal")
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="PNG to draw both densities and samples into")
    out = parser.parse_args().out
    if out and importlib.util.find_spec("matplotlib") is None:
        parser.error("Expected the package matplotlib for --out; got none. Install it.")
    fit = main(out=out)
    print(f"integral over {CELLS}x{CELLS} cells of [-{SIDE:g}, {SIDE:g}]^2: {fit.integral:.4f}")
    gap = fit.truth - fit.flow
    error, kl_error = (each.std() / len(each) ** 0.5 for each in (fit.truth, gap))
    print(f"entropy of the truth: {-fit.truth.mean():.4f} +- {error:.4f} nats")
    print(f"held-out NLL: flow {-fit.flow.mean():.4f}, Gaussian {-fit.gaussian.mean():.4f} nats")
    print(f"KL(truth || flow): {gap.mean():.4f} +- {kl_error:.4f} nats")
