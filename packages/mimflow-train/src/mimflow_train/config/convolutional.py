"""The shape of a convolutional autoencoder in the place of the ViTs; imports no torch."""

from dataclasses import dataclass

from mimflow_train.errors import ConfigError

__all__ = ["ConvolutionalConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvolutionalConfig:
    """Shape of diffusers' ``AutoencoderKL``; the defaults are SD-VAE, stabilityai/sd-vae-ft-ema.

    Attributes:
        widths: Channels of each level; each but the first halves the side.
        num_blocks: Residual blocks of a level in the encoder; the decoder has one more.
        channels: Channels of the latent image.
        token_size: Side of the square of the latent image that is one token; STARFlow's is 2.
        num_groups: Groups of the normalisation; they divide every width.
        fixed: Whether it stays as it is in the first checkpoint, so that the flow alone learns in
            the joint phase: the second stage of two.

    Example:
        >>> sd_vae = ConvolutionalConfig()
        >>> sd_vae.num_latents(256), sd_vae.latent_dim
        (256, 16)
    """

    widths: tuple[int, ...] = (128, 256, 512, 512)
    num_blocks: int = 2
    channels: int = 4
    token_size: int = 2
    num_groups: int = 32
    fixed: bool = False

    def __post_init__(self) -> None:
        for name in ("num_blocks", "channels", "token_size", "num_groups"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"Expected convolutional.{name} >= 1; got {getattr(self, name)}. Raise it."
                )
        if not self.widths or any(each % self.num_groups for each in self.widths):
            raise ConfigError(
                f"Expected convolutional.widths that {self.num_groups} groups divide; got "
                f"{self.widths}. Choose multiples of num_groups."
            )

    @property
    def latent_dim(self) -> int:
        """Numbers of a token."""
        return self.channels * self.token_size**2

    def num_latents(self, image_size: int) -> int:
        """Return how many tokens an image has.

        Args:
            image_size: Its side in pixels.

        Raises:
            ConfigError: If tokens do not tile it.
        """
        side = self.token_size << (len(self.widths) - 1)
        if image_size % side:
            raise ConfigError(
                f"Expected images that tokens of {side} px tile; got {image_size} px. Change the "
                "number of convolutional.widths or token_size."
            )
        rows = image_size // side
        return rows * rows
