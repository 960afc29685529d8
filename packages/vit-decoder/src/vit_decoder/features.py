"""Light decoders from latents to a frozen teacher's feature map (Eq. 7)."""

from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn

from mim_encoder.checks import require_type
from mim_encoder.pretrained import Pretrained
from vit_decoder.config import FeatureDecoderConfig
from vit_decoder.tokens import LatentsToImageTokens, require_latents


class FeatureDecoder(Pretrained):
    """Predicts a teacher's features at every place of a grid.

    Args:
        config: Sizes and kind; see `FeatureDecoderConfig`.

    Raises:
        TypeError: If it is no `FeatureDecoderConfig`.

    Example:
        >>> import torch
        >>> config = FeatureDecoderConfig(grid=(2, 4), feature_dim=5, num_latents=4, latent_dim=3)
        >>> FeatureDecoder(config)(torch.zeros(1, 4, 3)).shape
        torch.Size([1, 8, 5])
    """

    config: FeatureDecoderConfig
    config_type = FeatureDecoderConfig

    def __init__(self, config: FeatureDecoderConfig) -> None:
        super().__init__()
        advice = "Write FeatureDecoderConfig(grid=(8, 8))."
        require_type(FeatureDecoderConfig, "a FeatureDecoderConfig", advice, config=config)
        self.config = config
        kinds: dict[str, type[_TransformerFeatures | _RepeatedMlpFeatures]]
        kinds = {"transformer": _TransformerFeatures, "mlp": _RepeatedMlpFeatures}
        self.decoder = kinds[config.kind](config)

    def forward(self, z: Float[Tensor, "b k d"]) -> Float[Tensor, "b n feature_dim"]:
        """Predict features.

        Args:
            z: Latent tokens.

        Returns:
            One feature vector per place, in raster order.

        Raises:
            TypeError: If the latents are no tensor.
            ValueError: If number, width or dtype of the latents is not that of the weights.
        """
        config, dtype = self.config, self.decoder.last_weight.dtype
        require_latents(z, config.num_latents, config.latent_dim, dtype)
        features: Tensor = self.decoder(z)
        return features


class _TransformerFeatures(nn.Module):
    """A small ViT without class token, then a linear layer."""

    def __init__(self, config: FeatureDecoderConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.to_tokens = LatentsToImageTokens(
            config.trunk, num_latents=config.num_latents, latent_dim=config.latent_dim
        )
        self.head = nn.Linear(config.width, config.feature_dim)

    @property
    def last_weight(self) -> Tensor:
        """That of the last layer; nn.DataParallel's replicas have no parameters to look at."""
        return self.head.weight

    def forward(self, z: Float[Tensor, "b k d"]) -> Float[Tensor, "b n feature_dim"]:
        features: Tensor = self.head(self.to_tokens(z, self.grid))
        return features


class _RepeatedMlpFeatures(nn.Module):
    """An MLP on each latent, its output repeated to line up with raster-ordered places."""

    def __init__(self, config: FeatureDecoderConfig) -> None:
        super().__init__()
        rows, columns = config.grid
        self.repeats = rows * columns // config.num_latents
        self.mlp = nn.Sequential(
            nn.Linear(config.latent_dim, config.hidden_width),
            nn.SiLU(),
            nn.Linear(config.hidden_width, config.hidden_width),
            nn.SiLU(),
            nn.Linear(config.hidden_width, config.feature_dim),
        )

    @property
    def last_weight(self) -> Tensor:
        """That of the last layer, as in the other kind."""
        weight = self.mlp[-1].weight
        assert isinstance(weight, Tensor)
        return weight

    def forward(self, z: Float[Tensor, "b k d"]) -> Float[Tensor, "b n feature_dim"]:
        per_latent: Tensor = self.mlp(z)
        return repeat(per_latent, "b k feature_dim -> b (k r) feature_dim", r=self.repeats)
