"""MIMFlow on one screen: image to losses' ingredients, and noise to image (Fig. 2)."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mim_encoder import LatentPosterior, MaskedEncoder, ViTTrunk
from mimflow_train.config import ModelConfig
from mimflow_train.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from tarflow_prior import Block, FlowOutput, Guidance, TarFlow
from vit_decoder import FeatureDecoder, PixelDecoder

__all__ = ["MIMFlow", "MIMFlowOutput", "transformer_layers"]


class MIMFlowOutput(NamedTuple):
    """Everything that the joint objective looks at."""

    posterior: LatentPosterior
    flow: FlowOutput
    image: Float[Tensor, "b c h w"]
    features: dict[str, Float[Tensor, "b n f"]]


class MIMFlow(nn.Module):
    """Masked encoder, flow prior, pixel decoder and feature decoders, trained jointly.

    Args:
        config: Sizes of the four parts.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _encoder(config)
        self.flow = TarFlow(config.flow)
        self.decoder = _decoder(config)
        self.feature_decoders = nn.ModuleDict(
            {name: FeatureDecoder(each) for name, each in config.features.items()}
        )

    @classmethod
    def frozen(
        cls, config: ModelConfig, tensors: Mapping[str, Tensor], device: torch.device
    ) -> "MIMFlow":
        """Return networks with these weights, to be used and not trained.

        Args:
            config: Sizes of the four parts.
            tensors: A state of all of them.
            device: Where to put them.
        """
        with torch.random.fork_rng(devices=[]):
            model = cls(config).to(device)
        model.load_state_dict(tensors)
        return model.eval().requires_grad_(requires_grad=False)

    def forward(
        self,
        image: Float[Tensor, "b c h w"],
        label: Int64[Tensor, " b"],
        masked: Bool[Tensor, "b n"],
        noise: Float[Tensor, "b k d"],
        uniform: Float[Tensor, "b depth 2"] | None = None,
    ) -> MIMFlowOutput:
        """Encode what is visible, add noise (Eq. 1), and read the same latents in three ways.

        Args:
            image: Images in [-1, 1].
            label: Class of each image, -1 for the null class.
            masked: True where a patch is hidden from the encoder.
            noise: Standard normal noise of the latents.
            uniform: Draws that decide which branches of the decoder are skipped; None skips none.
        """
        posterior = self.encoder(image, masked)
        z = posterior.perturb(noise)
        return MIMFlowOutput(
            posterior=posterior,
            flow=self.flow(z, label),
            image=self.decoder(z, uniform=uniform),
            features={name: decode(z) for name, decode in self.feature_decoders.items()},
        )

    @property
    def layers(self) -> list[nn.Module]:
        """The transformer layers of all parts."""
        return transformer_layers(self)

    @torch.no_grad()
    def generate(
        self,
        label: Int64[Tensor, " b"],
        *,
        guidance: Guidance | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Draw images of the given classes: noise, flow inverse, pixel decoder.

        Args:
            label: Class of each image, -1 for the null class.
            guidance: How to lean towards the class; None for plain samples.
            temperature: Standard deviation of the base noise.
            generator: Source of the base noise.

        Returns:
            Images in [-1, 1], unclamped.
        """
        z = self.flow.sample(label, guidance=guidance, temperature=temperature, generator=generator)
        image: Tensor = self.decoder(z)
        return image


def transformer_layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers of every vision transformer and flow block in a module."""
    layers: list[nn.Module] = []
    for part in module.modules():
        if isinstance(part, ViTTrunk):
            layers += part.blocks
        if isinstance(part, Block):
            layers += part.layers
    return layers


def _encoder(config: ModelConfig) -> MaskedEncoder | ConvolutionalEncoder:
    if config.convolutional is None:
        return MaskedEncoder(config.encoder)
    return ConvolutionalEncoder(config.convolutional, config.encoder.sigma)


def _decoder(config: ModelConfig) -> PixelDecoder | ConvolutionalDecoder:
    if config.convolutional is None:
        return PixelDecoder(config.decoder)
    return ConvolutionalDecoder(config.convolutional)
