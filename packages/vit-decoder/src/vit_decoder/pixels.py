"""The decoder that paints the image (paper, section 3.1)."""

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from mim_encoder.checks import require_pair, require_type
from mim_encoder.patches import unpatchify
from mim_encoder.pretrained import Pretrained
from vit_decoder.config import DecoderConfig
from vit_decoder.tokens import LatentsToImageTokens


class PixelDecoder(Pretrained):
    """ViT that paints an image from latent tokens alone; it never sees a mask or a patch.

    Args:
        config: Sizes; see `DecoderConfig`.

    Raises:
        TypeError: If it is no `DecoderConfig`.

    Example:
        >>> import torch
        >>> decoder = PixelDecoder(DecoderConfig.preset("tiny", depth=1))
        >>> z = torch.zeros(2, 16, 16)
        >>> decoder(z).shape, decoder(z, size=(24, 48)).shape
        (torch.Size([2, 3, 32, 32]), torch.Size([2, 3, 24, 48]))
    """

    config: DecoderConfig
    config_type = DecoderConfig

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        preset = "Write DecoderConfig.preset('tiny')."
        require_type(DecoderConfig, "a DecoderConfig", preset, config=config)
        self.config = config
        self.to_tokens = LatentsToImageTokens(
            config.trunk, num_latents=config.num_latents, latent_dim=config.latent_dim
        )
        self.head = nn.Linear(config.width, 3 * config.patch_size**2)
        self.refine = _added_convolution() if config.head == "refined" else None

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last layer: where adaptive loss weights compare gradients."""
        layer = self.head if self.refine is None else self.refine
        return cast(nn.Parameter, layer.weight)

    def forward(
        self,
        z: Float[Tensor, "b k d"],
        size: tuple[int, int] | None = None,
        uniform: Float[Tensor, "b depth 2"] | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Decode latents.

        Args:
            z: Latent tokens.
            size: Height and width of the image, in pixels; by default the configured square.
            uniform: Uniform draws in [0, 1), one for each image, block and branch: the branch is
                skipped where the draw is below the block's share of ``drop_path``; None skips none.

        Returns:
            Images in the [-1, 1] convention, not clamped.

        Raises:
            TypeError: If the latents are no tensor, or the size is no pair of whole numbers.
            ValueError: If the latents or the size do not fit the configuration, or the latents are
                not of the weights' dtype.
        """
        grid = self.config.grid if size is None else self._grid(size)
        patches = self.head(self.to_tokens(z, grid, uniform))
        image = unpatchify(patches, grid, self.config.patch_size)
        return image if self.refine is None else image + self.refine(image)

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        require_pair(f"{self.config.image_size, self.config.image_size}", size=size)
        patch_size = self.config.patch_size
        height, width = size
        if min(size) < patch_size or height % patch_size or width % patch_size:
            raise ValueError(
                f"Expected a size in multiples of patch_size={patch_size}; got {height}x{width}. "
                "Decode a larger size and crop."
            )
        return height // patch_size, width // patch_size


def _added_convolution() -> nn.Conv2d:
    """Return a 3x3 convolution from image to image that starts as zero."""
    convolution = nn.Conv2d(3, 3, kernel_size=3, padding=1)
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(cast(Tensor, convolution.bias))
    return convolution
