"""SD-VAE's encoder and decoder, by diffusers, in the place of the ViTs (Table 1)."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mim_encoder import LatentPosterior
from mimflow_train.config.convolutional import ConvolutionalConfig
from mimflow_train.errors import ConfigError
from mimflow_train.frozen.weights import PretrainedFile, loading, read_tensors

__all__ = [
    "SD_VAE_FILE",
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "read_sd_vae",
    "require_diffusers",
]

_REPOSITORY, _FILE = "stabilityai/sd-vae-ft-ema", "diffusion_pytorch_model.safetensors"
_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _download() -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(_REPOSITORY, _FILE))


SD_VAE_FILE = PretrainedFile(
    network="SD-VAE",
    name="sd-vae-ft-ema.safetensors",
    url=f"https://huggingface.co/{_REPOSITORY}/resolve/main/{_FILE}",
    download=_download,
)


class ConvolutionalEncoder(nn.Module):
    """Squares of SD-VAE's latent image as tokens, divided by ``scale``.

    Args:
        config: Its shape.
        sigma: Standard deviation of the latent noise (Eq. 1), which takes the place of the
            standard deviation that SD-VAE's own encoder gives.

    Attributes:
        scale: 1, unless the network is fixed: then its latents' standard deviation without it.
    """

    def __init__(self, config: ConvolutionalConfig, sigma: float) -> None:
        super().__init__()
        network = _autoencoder(config)
        self.side, self.sigma = config.token_size, sigma
        self.encoder, self.quant_conv = network.encoder, network.quant_conv
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))

    def forward(
        self, image: Float[Tensor, "b 3 h w"], masked: Bool[Tensor, "b n"] | None = None
    ) -> LatentPosterior:
        """Encode whole images.

        Args:
            image: Images in [-1, 1].
            masked: What a masked encoder would not see; a run's configuration allows no mask here.
        """
        latents, _ = self.quant_conv(self.encoder(image)).float().chunk(2, dim=1)
        square = {"p": self.side, "q": self.side}
        mean = rearrange(latents / self.scale, "b c (h p) (w q) -> b (h w) (c p q)", **square)
        return LatentPosterior(mean, self.sigma, mean)


class ConvolutionalDecoder(nn.Module):
    """SD-VAE's decoder on the tokens of :class:`ConvolutionalEncoder`, multiplied by its ``scale``.

    Args:
        config: Its shape.

    Attributes:
        scale: The encoder's.
    """

    def __init__(self, config: ConvolutionalConfig) -> None:
        super().__init__()
        network = _autoencoder(config)
        self.side = config.token_size
        self.decoder, self.post_quant_conv = network.decoder, network.post_quant_conv
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))

    def forward(
        self, z: Float[Tensor, "b k d"], *, uniform: Float[Tensor, "b depth 2"] | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """Decode tokens of a square grid.

        Args:
            z: Latents.
            uniform: Draws that decide which branches a ViT skips; there are none here.
        """
        rows = int(z.shape[1] ** 0.5)
        square = {"p": self.side, "q": self.side, "h": rows}
        latents = rearrange(z * self.scale, "b (h w) (c p q) -> b c (h p) (w q)", **square)
        image: Tensor = self.decoder(self.post_quant_conv(latents))
        return image

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight at which gradients of pixels and of an adversary are compared."""
        weight: nn.Parameter = self.decoder.conv_out.weight
        return weight


def read_sd_vae(encoder: nn.Module, decoder: nn.Module, file: Path) -> None:
    """Give both halves published weights, in place.

    Args:
        encoder: A :class:`ConvolutionalEncoder` of SD-VAE's shape.
        decoder: Its :class:`ConvolutionalDecoder`.
        file: What diffusers has written, with the attention's names of any version.

    Raises:
        WeightsError: If it does not hold this network.
    """
    with loading(SD_VAE_FILE.network, file):
        tensors = {_renamed(name): value for name, value in read_tensors(file).items()}
        for part in (encoder, decoder):
            names = part.state_dict().keys() - {"scale"}
            ours = {name: tensors.pop(name) for name in names}
            part.load_state_dict({"scale": part.get_buffer("scale"), **ours})
        if tensors:
            raise ValueError(f"{len(tensors)} tensors too many, such as {next(iter(tensors))}")


def require_diffusers() -> None:
    """Raise if the package of the convolutional autoencoder is missing.

    Raises:
        ConfigError: If it is.
    """
    if importlib.util.find_spec("diffusers") is None:
        raise ConfigError(
            "Expected the package diffusers for a convolutional autoencoder; it is not installed. "
            "Install mimflow-train[baselines]."
        )


def _renamed(name: str) -> str:
    for old, new in _ATTENTION.items():
        name = name.replace(f".attentions.0.{old}.", f".attentions.0.{new}.")
    return name


def _autoencoder(config: ConvolutionalConfig) -> Any:
    require_diffusers()

    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    levels = len(config.widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.widths,
        layers_per_block=config.num_blocks,
        latent_channels=config.channels,
        norm_num_groups=config.num_groups,
    )
