"""What a run costs before it is run: parameters, work for each image, memory of each worker."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.models import convnext_small  # type: ignore[import-untyped]

from mimflow_train.adversary.discriminator import PatchDiscriminator
from mimflow_train.config import TrainConfig
from mimflow_train.device.memory import kept_bytes, set_computation
from mimflow_train.device.work import forward_work
from mimflow_train.engine.sharding import shards_weights
from mimflow_train.errors import ConfigError
from mimflow_train.frozen.costs import FrozenCost, frozen_costs
from mimflow_train.frozen.efflite0 import EffLite0Distance
from mimflow_train.frozen.perceptual import (
    ConvNextDistance,
    LpipsDistance,
    PerceptualDistance,
    PerceptualLoss,
    lpips_network,
)
from mimflow_train.frozen.teacher import FeatureTarget, cast_products, cosine_distance, imitated_gpu
from mimflow_train.model import MIMFlow, MIMFlowOutput
from mimflow_train.objective import joint_objective
from mimflow_train.teachers import Targets

__all__ = ["BYTES_PER_TRAINED", "PartCost", "RunCost", "run_cost", "training_flops"]

BYTES_PER_TRAINED = 20  # float32 weight, gradient, two moments of AdamW, moving average
_BYTES_TOGETHER = 8  # weight and gradient of what is not sharded at the moment
_BYTES_PER_FROZEN = 2  # as in mimflow_train.frozen.teacher; but for a discriminator's eye
_BYTES_PER_EYE = 4


class PartCost(NamedTuple):
    """One trained network, and one forward pass of one image through it.

    Attributes:
        name: The network.
        parameters: Numbers that are trained.
        gmac: 10^9 multiply-adds of its matrix products and convolutions.
    """

    name: str
    parameters: int
    gmac: float


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """The joint phase of a run, for one worker.

    Attributes:
        trained: Encoder, flow, decoder and feature decoders.
        discriminator: The decoder's adversary in the second phase; None if it is not of its own.
        frozen: Teachers and distances.
        static_bytes: Weights, gradients, moments, average and frozen weights.
        activation_bytes: What autograd keeps of one image for the backward pass.
    """

    trained: list[PartCost]
    discriminator: PartCost | None
    frozen: list[FrozenCost]
    static_bytes: int
    activation_bytes: int

    @property
    def training_flops(self) -> float:
        """Floating point operations of one image in a joint step; a backward pass counts twice.

        Teachers count also where a small set's features are kept: then it is a few percent high.
        """
        return _training_flops(self.trained, self.frozen)

    @property
    def num_trained(self) -> int:
        """Numbers that the joint phase trains."""
        return sum(part.parameters for part in self.trained)

    def memory(self, micro_batch: int) -> int:
        """Return the bytes that a joint step needs, without the allocator's and libraries' own."""
        return self.static_bytes + micro_batch * self.activation_bytes

    def largest_micro_batch(self, available: int) -> int:
        """Return how many images fit into this many bytes; 0 if not even the weights do."""
        return max(0, available - self.static_bytes) // self.activation_bytes


def run_cost(config: TrainConfig, workers: int = 1) -> RunCost:
    """Count a run's cost without weights, images or a GPU; takes seconds.

    Activations are those that autograd keeps under bf16 autocast, as a GPU's run would; a kernel
    that keeps less or more than the CPU's moves the estimate. Where layers are recomputed, it is
    their inputs, and what is inside one layer on average.

    Args:
        config: The run.
        workers: Devices that share the batch, and the weights if the run says so.

    Raises:
        ConfigError: If the encoder's bottleneck is MAE's.
    """
    if config.model.encoder.bottleneck == "mae":
        raise ConfigError(
            "Expected the bottleneck learnable-tokens or simmim for an estimate of memory; got "
            "mae, whose activations depend on the mask. Choose one of the two."
        )
    networks = frozen_costs(config)
    trained = _trained(config)
    copies, activations = _kept_bytes(config)
    weights = BYTES_PER_TRAINED * sum(part.parameters for part in trained)
    if shards_weights(config, workers):
        weights = weights // workers + _BYTES_TOGETHER * _numbers_together(config)
    return RunCost(
        trained=trained,
        discriminator=_discriminator(config),
        frozen=networks,
        static_bytes=weights + sum(map(_frozen_bytes, networks)) + copies,
        activation_bytes=activations,
    )


def _frozen_bytes(network: FrozenCost) -> int:
    each = _BYTES_PER_FROZEN if network.in_joint_step else _BYTES_PER_EYE
    return each * network.parameters


def _numbers_together(config: TrainConfig) -> int:
    """Return what a worker has whole at one time: weights of no layer, and of two layers."""
    with torch.device("meta"):
        model = MIMFlow(config.trained_model)
    sizes = [sum(each.numel() for each in layer.parameters()) for layer in model.layers]
    return sum(each.numel() for each in model.parameters()) - sum(sizes) + 2 * max(sizes)


def training_flops(config: TrainConfig) -> float:
    """Count the operations of one image in a joint step, and nothing else of a run's cost.

    Args:
        config: The run.
    """
    trained = _trained(config)
    if config.model.is_autoencoder_fixed:  # which encodes, and no more
        gmac = {part.name: part.gmac for part in trained}
        return 2e9 * (gmac["encoder"] + 3 * gmac["flow"])
    return _training_flops(trained, frozen_costs(config))


def _training_flops(trained: list[PartCost], frozen: list[FrozenCost]) -> float:
    passes = sum(each.gmac * each.passes for each in frozen if each.in_joint_step)
    return 2e9 * (3 * sum(part.gmac for part in trained) + passes)


def _trained(config: TrainConfig) -> list[PartCost]:
    encoder = config.model.encoder
    with torch.device("meta"):
        model = MIMFlow(config.trained_model)
        image = torch.empty(1, 3, encoder.image_size, encoder.image_size)
        z = torch.empty(1, encoder.num_latents, encoder.latent_dim)
    parts = [
        PartCost("encoder", *forward_work(model.encoder, image, _hidden_on_average(config))),
        PartCost("flow", *forward_work(model.flow, z)),
        PartCost("pixel decoder", *forward_work(model.decoder, z)),
    ]
    if model.feature_decoders:
        heads = [forward_work(each, z) for each in model.feature_decoders.values()]
        sums = (sum(each.parameters for each in heads), sum(each.gmac for each in heads))
        parts.append(PartCost("feature decoders", *sums))
    return parts


def _discriminator(config: TrainConfig) -> PartCost | None:
    phase, size = config.decoder_phase, config.model.decoder.image_size
    if not phase.steps or phase.discriminator.kind != "patch":
        return None
    with torch.device("meta"):
        module = PatchDiscriminator(phase.discriminator)
        work = forward_work(module, torch.empty(1, 3, size, size))
    return PartCost("discriminator", *work)


def _hidden_on_average(config: TrainConfig) -> Tensor | None:
    """Return a mask for an encoder that passes over hidden patches; None for one that does not."""
    encoder, num_patches = config.model.encoder, config.model.encoder.num_patches
    if encoder.hidden_patches != "dropped":
        return None
    hidden = round(num_patches * (config.mask.low + config.mask.high) / 2)
    if encoder.bottleneck == "mae":
        hidden = num_patches - encoder.num_latents
    return torch.arange(num_patches)[None] < hidden


def _kept_bytes(config: TrainConfig) -> tuple[int, int]:
    """Return what autograd keeps for a batch whatever its size, and for each image of it."""
    with torch.device("meta"):
        model, networks = MIMFlow(config.trained_model), _perceptual_networks(config)
    cpu = torch.device("cpu")
    with FakeTensorMode(), imitated_gpu(), torch.autocast("cpu", torch.bfloat16):
        for each in (model, *networks):
            _leave_meta(each)
        for each in networks:
            cast_products(each, torch.bfloat16)
        one, two = (_kept_by_step(config, model, networks, batch) for batch in (1, 2))
        copies, activations = 2 * one - two, two - one
        if config.recompute:  # copies are there until the forward pass is over
            set_computation(model, replace(config, compile=False), cpu)
            one, two = (_kept_by_step(config, model, networks, batch) for batch in (1, 2))
            inputs = two - one
            activations = inputs + (activations - inputs) // len(model.layers)
    return copies, activations


def _kept_by_step(
    config: TrainConfig, model: MIMFlow, networks: list[nn.Module], batch: int
) -> int:
    encoder = config.model.encoder
    image = torch.empty(batch, 3, encoder.image_size, encoder.image_size)
    masked = torch.zeros(batch, encoder.num_patches, dtype=torch.bool)
    frozen = Targets(_distance(networks), {}, {})

    def forward() -> None:
        posterior = model.encoder(image)
        z = posterior.perturb(torch.empty_like(posterior.mean))
        features = {name: decode(z) for name, decode in model.feature_decoders.items()}
        output = MIMFlowOutput(posterior, model.flow(z), model.decoder(z), features)
        targets = {
            name: FeatureTarget(torch.empty_like(each), cosine_distance)
            for name, each in features.items()
        }
        joint_objective(
            output,
            image,
            masked,
            weights=config.loss,
            targets=targets,
            perceptual=frozen.distance_to(image),
        )

    weights = (weight for each in (model, *networks) for weight in each.parameters())
    return kept_bytes(weights, forward)


def _perceptual_networks(config: TrainConfig) -> list[nn.Module]:
    if not config.loss.perceptual:
        return []
    networks = [timm.create_model("tf_efficientnet_lite0")]
    if config.loss.perceptual_network == "lpips":
        networks = [lpips_network(linear_weights=False), convnext_small()]
    return [each.eval().requires_grad_(requires_grad=False) for each in networks]


def _leave_meta(network: nn.Module) -> None:
    """Give a network tensors of the device that is imitated; autocast does not know the other."""
    for module in network.modules():
        for name, weight in module.named_parameters(recurse=False):
            copy = nn.Parameter(torch.empty(weight.shape), requires_grad=weight.requires_grad)
            setattr(module, name, copy)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def _distance(networks: list[nn.Module]) -> PerceptualDistance | None:
    match networks:
        case [vgg, convnext]:
            return PerceptualLoss(LpipsDistance(vgg), ConvNextDistance(convnext))
        case [efflite0]:
            return EffLite0Distance(efflite0)
    return None
