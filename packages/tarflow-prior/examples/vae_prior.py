"""A flow as the prior of an ordinary VAE, which only knows torch.distributions.

Run with `uv run python packages/tarflow-prior/examples/vae_prior.py --out samples.png`. The
images are synthetic: one anti-aliased ellipse or bar, 16x16, of random place, size and angle.
"""

import argparse
import importlib.util

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from tarflow_prior import TarFlow, TarFlowConfig

SIDE = 16
PIXEL_STD = 0.1  # of the decoder, fixed; the ELBO bounds a density over grey values


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    hidden = [nn.Linear(inputs, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU()]
    return nn.Sequential(*hidden, nn.Linear(256, outputs))


class VAE(nn.Module):
    def __init__(self, prior: Distribution) -> None:
        super().__init__()
        self.prior, pixels, latents = prior, SIDE**2, prior.event_shape.numel()
        self.encoder, self.decoder = mlp(pixels, 2 * latents), mlp(latents, pixels)

    def posterior(self, image: Float[Tensor, "b pixels"]) -> Distribution:
        mean, log_std = self.encoder(image).unflatten(-1, (2, *self.prior.event_shape)).unbind(1)
        return Independent(Normal(mean, log_std.exp()), len(self.prior.event_shape))

    def likelihood(self, z: Tensor) -> Distribution:
        mean = self.decoder(z.flatten(-len(self.prior.event_shape))).sigmoid()
        return Independent(Normal(mean, PIXEL_STD), 1)

    def elbo(self, image: Float[Tensor, "b pixels"], draws: int = 1) -> Float[Tensor, " b"]:
        q = self.posterior(image)
        z = q.rsample((draws,))
        kl: Tensor = q.log_prob(z) - self.prior.log_prob(z)
        return (self.likelihood(z).log_prob(image) - kl).mean(0)


def shapes(count: int, generator: torch.Generator) -> Float[Tensor, "count pixels"]:
    place, size, angle, kind = torch.rand(count, 6, 1, generator=generator).split((2, 2, 1, 1), 1)
    centre, half, turn = 8 * place + 4, 3 * size + 1.5, torch.pi * angle[:, 0]  # pixels, radians
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    right, down = x.flatten() - centre[:, 0], y.flatten() - centre[:, 1]
    along = (right * turn.cos() + down * turn.sin()).abs() / half[:, 0]
    across = (down * turn.cos() - right * turn.sin()).abs() / half[:, 1]
    ellipse, bar = torch.hypot(along, across), torch.maximum(along, across)
    radius = torch.where(kind[:, 0] < 0.5, ellipse, bar)
    image: Tensor = ((1 - radius) * half.amin(1) + 0.5).clamp(0, 1)
    return image


def fit(prior: Distribution, parameters: list[nn.Parameter], steps: int) -> list[Tensor]:
    """Return the held-out ELBO before and after training, in nats, and generated images."""
    torch.manual_seed(0)
    vae, images = VAE(prior), torch.Generator().manual_seed(1)
    held_out = shapes(2000, images)
    optimizer = torch.optim.Adam([*vae.parameters(), *parameters], lr=2e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.no_grad():
        before = vae.elbo(held_out, draws=8)
    for _ in range(steps):
        optimizer.zero_grad()
        (-vae.elbo(shapes(64, images)).mean()).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        generated = vae.likelihood(prior.sample((64,))).mean
        return [before, vae.elbo(held_out, draws=8), generated]


def main(steps: int = 800) -> tuple[list[Tensor], list[Tensor]]:
    gaussian = fit(Independent(Normal(torch.zeros(4, 2), 1.0), 2), [], steps)
    torch.manual_seed(0)
    config = TarFlowConfig(num_tokens=4, token_dim=2, width=64, head_dim=32, depths=(1, 1))
    flow = TarFlow(config)
    return gaussian, fit(flow.conditional(), list(flow.parameters()), steps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="PNG of data, samples with N(0, I), samples with the flow")
    out = parser.parse_args().out
    if out and importlib.util.find_spec("matplotlib") is None:
        parser.error("Expected the package matplotlib for --out; got none. Install it.")
    (_, gaussian, blobs), (_, flow, images) = main()
    for name, nats in (("N(0, I)", gaussian), ("flow", flow), ("gain, paired", flow - gaussian)):
        print(
            f"held-out ELBO, {name}: {nats.mean():.2f} +- {nats.std() / len(nats) ** 0.5:.2f} nats"
        )
    if out:
        from matplotlib import pyplot as plt

        grids = torch.stack([shapes(64, torch.Generator()), blobs, images])
        wall = rearrange(grids, "g (r c) (h w) -> (r h) (g c w)", r=8, h=SIDE)
        plt.imsave(out, wall, cmap="gray", vmin=0, vmax=1)
