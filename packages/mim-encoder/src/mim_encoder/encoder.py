"""The masked encoder and what its latents are made of (paper, section 3.1)."""

from contextlib import AbstractContextManager, nullcontext

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from timm.layers import PatchEmbed
from torch import Tensor, nn

from mim_encoder.checks import require_type
from mim_encoder.config import EncoderConfig
from mim_encoder.inputs import require_images, require_mask
from mim_encoder.posterior import LatentPosterior
from mim_encoder.pretrained import Pretrained
from mim_encoder.trunk import ViTTrunk, learned_tokens


class MaskedEncoder(Pretrained):
    """ViT that compresses a partly hidden image into a fixed number of latent tokens.

    Hidden patches are replaced by one learnable token before positions are added, so the sequence
    keeps its length; or they are dropped. Either way no hidden pixel can reach the latents. The
    mask comes in as an argument and nothing else decides what is hidden: ``train()`` and ``eval()``
    encode the same.

    Which patches are visible must be known before they can be gathered: with dropped patches the
    call waits for the GPU, unless the mask is on the CPU.

    Args:
        config: Sizes; see `EncoderConfig`.

    Raises:
        TypeError: If it is no `EncoderConfig`.

    Example:
        >>> encoder = MaskedEncoder(EncoderConfig.preset("tiny", depth=1))
        >>> posterior = encoder(torch.zeros(2, 3, 32, 32))
        >>> posterior.mean.shape, posterior.features.shape, posterior.sigma
        (torch.Size([2, 16, 16]), torch.Size([2, 16, 192]), 0.3)
    """

    config: EncoderConfig
    config_type = EncoderConfig

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        preset = "Write EncoderConfig.preset('tiny')."
        require_type(EncoderConfig, "an EncoderConfig", preset, config=config)
        self.config = config
        width = config.width
        self.embed = PatchEmbed(config.image_size, config.patch_size, embed_dim=width)
        self.mask_token = (
            learned_tokens(1, width) if config.hidden_patches == "mask-token" else None
        )
        self.positions = learned_tokens(config.num_patches, width)
        self.class_token = learned_tokens(1, width, std=1e-6)
        if config.bottleneck == "learnable-tokens":
            self.latents = learned_tokens(config.num_latents, width)
            self.latent_positions = learned_tokens(config.num_latents, width)
        self.trunk = ViTTrunk(config.trunk)
        self.to_latent = nn.Linear(width, config.latent_dim)

    def forward(
        self, image: Float[Tensor, "b 3 h w"], masked: Bool[Tensor, "b n"] | None = None
    ) -> LatentPosterior:
        """Encode images.

        Args:
            image: Images in [-1, 1] of the configured size.
            masked: True where a patch is hidden; None shows all of them.

        Returns:
            The distribution of the latents. Its mean is float32 (or float64) under autocast too,
            since a density is taken of it.

        Raises:
            TypeError: If image or mask is no tensor.
            ValueError: If image or mask does not fit the configured size, the image is not of the
                weights' dtype, the mask is not boolean, or it hides another number of patches than
                it may.
        """
        require_images(image, self.config.image_size, self.positions.dtype)
        if masked is not None:
            require_mask(masked, image.shape[0], self.config.num_patches)
        if image.shape[0]:
            features = self._features(image, masked)
        else:
            features = self.positions.new_zeros(0, self.config.num_latents, self.config.width)
        with _full_precision(image.device.type):
            mean = self.to_latent(features)
        return LatentPosterior(mean, self.config.sigma, features)

    def _features(
        self, image: Float[Tensor, "b 3 h w"], masked: Bool[Tensor, "b n"] | None
    ) -> Float[Tensor, "b k width"]:
        """Return the normalised tokens that become latents."""
        patches, places = self.embed(image), None
        if masked is not None and self.mask_token is not None:
            hidden = rearrange(masked, "b n -> b n 1").to(image.device)
            patches = torch.where(hidden, self.mask_token, patches)
        patches = patches + self.positions
        if masked is not None and self.mask_token is None:
            places = _visible_places(masked).to(image.device)
            patches = patches.take_along_dim(rearrange(places, "b n -> b n 1"), dim=1)
        prefix = repeat(self._prefix(), "t width -> b t width", b=image.shape[0])
        prefix, patches = self.trunk(prefix, patches, self.config.grid, places)
        return self._chosen(prefix, patches)

    def _prefix(self) -> Float[Tensor, "prefix width"]:
        if self.config.bottleneck != "learnable-tokens":
            return self.class_token
        return torch.cat([self.class_token, self.latents + self.latent_positions])

    def _chosen(
        self, prefix: Float[Tensor, "b prefix width"], patches: Float[Tensor, "b n width"]
    ) -> Float[Tensor, "b k width"]:
        """Choose the tokens that become latents."""
        if self.config.bottleneck == "learnable-tokens":
            return prefix[:, 1:]
        num_latents, num_patches = self.config.num_latents, self.config.num_patches
        if patches.shape[1] != num_latents:
            raise ValueError(
                f"Expected {num_latents} visible patches, as many as latents, with bottleneck "
                f"'mae'; got {patches.shape[1]}. Hide the fixed share low = high = "
                f"{1 - num_latents / num_patches:g} (MaskRatio), or set num_latents."
            )
        return patches


def _visible_places(masked: Bool[Tensor, "b n"]) -> Int[Tensor, "b visible"]:
    """Return the places of the visible patches in raster order, as many in every image."""
    counts = sorted(set((~masked).sum(1).tolist()))
    if len(counts) != 1:
        raise ValueError(
            "Expected the same number of hidden patches in every image, since hidden_patches is "
            f"'dropped'; got {counts} visible ones. Draw the mask with "
            "MaskRatio(per_sample=False), or choose hidden_patches='mask-token'."
        )
    return masked.int().argsort(dim=1, stable=True)[:, : counts[0]]


def _full_precision(device_type: str) -> AbstractContextManager[None]:
    """Switch autocast off, where the device has one (the meta device has not)."""
    if device_type == "meta":  # torch.compile of torch 2.11 cannot ask is_autocast_available
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
