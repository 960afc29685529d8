"""Bytes that a joint step moves through a GPU's memory, counted on a CPU: how fast it can be there.

Run with `uv run python benchmarks/step_traffic.py [--scale L] [--micro-batch 32]`; takes minutes
and prints the table of step_traffic.md. An operator reads its inputs and writes its results; of a
layer that is compiled it is what torch's compiler counts for the kernels that it fuses, here for a
CPU. Tensors are fake, but for one call of each kind of compiled layer: no GPU is needed.
"""

import argparse
import copy
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from unittest.mock import patch

import timm
import torch
import torch._inductor.config
from open_clip.transformer import ResidualAttentionBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torchvision.models import convnext_small
from torchvision.models.convnext import CNBlock

from mimflow_train.frozen.clip import empty_image_tower
from mimflow_train.frozen.dinov2 import DINOV2_NAME
from mimflow_train.frozen.perceptual import (
    ConvNextDistance,
    LpipsDistance,
    PerceptualDistance,
    level_distance,
    lpips_network,
)
from mimflow_train.frozen.teacher import cast_products, imitated_gpu
from mimflow_train.model import MIMFlow, transformer_layers
from mimflow_train.recipes import IMAGENET_CLASSES, RECIPES

# Their time is arithmetic; that of all other operators is what they move.
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "_scaled_dot_product")
FROZEN_LAYERS = (Block, ResidualAttentionBlock, CNBlock)
FREE = ("empty", "detach", "lift", "_unsafe_view")


class Count(NamedTuple):
    """Kernels, and what they move."""

    kernels: int = 0
    bytes: int = 0

    def plus(self, other: "Count", times: int = 1) -> "Count":
        """Add another, some times."""
        return Count(self.kernels + times * other.kernels, self.bytes + times * other.bytes)


class Traffic(TorchDispatchMode):
    """Counts the operators that are no products while entered, each a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.count = Count()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        schema = func._schema
        read, made = tensors((args, kwargs)), tensors(result)
        storages = {each.untyped_storage()._cdata for each in read}
        is_view = all(each.untyped_storage()._cdata in storages for each in made)
        if schema.name.removeprefix("aten::").startswith(FREE + PRODUCTS):
            return result
        if is_view and not schema.is_mutable:
            return result
        places = zip(schema.arguments, args, strict=False)
        changed = [value for place, value in places if place.is_out or _is_written(place)]
        moved = sum(map(size, read)) + sum(map(size, made or tensors(changed)))
        self.count = self.count.plus(Count(1, moved))
        return result


def _is_written(place: Any) -> bool:
    return place.alias_info is not None and place.alias_info.is_write


def tensors(tree: object) -> list[Tensor]:
    """Every tensor in it, once."""
    return list({id(each): each for each in tree_leaves(tree) if isinstance(each, Tensor)}.values())


def size(tensor: Tensor) -> int:
    """Bytes that there are to read: an expanded tensor has fewer than its shape says."""
    return min(tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size())


def traffic(work: Callable[[], object]) -> Count:
    """Count a pass and, where something learns, its backward pass."""
    with Traffic() as counter:
        both_ways(work)
    return counter.count


def both_ways(work: Callable[[], object]) -> None:
    results = [each for each in tensors(work()) if each.requires_grad]
    if results:
        torch.autograd.backward(results, [torch.empty_like(each) for each in results])


class Call(NamedTuple):
    """A call that ``compile`` compiles: a layer of fake weights, or a function."""

    function: Callable[..., object]
    args: tuple[Any, ...]

    @property
    def kind(self) -> str:
        """Equal for calls that move the same."""
        shapes = tree_map_only(Tensor, lambda each: (*each.shape, each.requires_grad), self.args)
        weights: list[torch.Size] = []
        if isinstance(self.function, nn.Module):
            weights = [each.shape for each in self.function.parameters()]
        return f"{type(self.function)} {weights} {shapes}"

    def dispatched(self) -> Count:
        """Count it with a kernel for each operator, forward and backward."""
        args = tree_map_only(Tensor, lambda each: _leaf(each, torch.empty_like(each)), self.args)
        return traffic(lambda: self.function(*args))

    def fused(self) -> Count:
        """Count it compiled; it runs once, with zeros."""
        moved: list[int] = []
        codegen = GraphLowering.codegen

        def counting(graph: GraphLowering) -> Any:
            code = codegen(graph)
            nodes = [each for each in graph.scheduler.nodes if not each.is_extern()]
            moved.extend(each.get_read_write_buffers_sizes() for each in nodes)
            return code

        function, args = (
            self.function,
            tree_map_only(Tensor, lambda each: _leaf(each, _zeros(each)), self.args),
        )
        if isinstance(function, nn.Module):
            function, args = type(function).forward, (remade(function, _zeros), *args)
        torch.compiler.reset()
        fresh = torch._inductor.config.patch(force_disable_caches=True)
        with fresh, patch.object(GraphLowering, "codegen", counting), _bf16():
            both_ways(lambda: torch.compile(function, dynamic=False)(*args))
        return Count(sum(each > 0 for each in moved), sum(moved))


def _bf16() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def _leaf(like: Tensor, tensor: Tensor) -> Tensor:
    return tensor.requires_grad_(like.requires_grad)


def _like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def _zeros(fake: Tensor) -> Tensor:
    return torch.zeros(fake.shape, dtype=fake.dtype)


def remade(module: nn.Module, make: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return a copy with other tensors in the place of each."""
    twin = copy.copy(module)
    twin._modules = {key: each and remade(each, make) for key, each in module._modules.items()}
    twin._buffers = {
        key: None if each is None else make(each) for key, each in module._buffers.items()
    }
    twin._parameters = {
        key: None if each is None else nn.Parameter(make(each), requires_grad=each.requires_grad)
        for key, each in module._parameters.items()
    }
    return twin


def _frozen(network: nn.Module) -> nn.Module:
    network = remade(network, _like).eval().requires_grad_(requires_grad=False)
    cast_products(network, torch.bfloat16)
    return network


class Part(NamedTuple):
    """One network's share of a step, and the calls in it that are compiled."""

    name: str
    count: Count
    calls: list[Call]
    alone: dict[str, Count]


def joint_step(scale: str, batch: int, *, compiles_frozen: bool) -> list[Part]:
    """Count the parts of a step with fake tensors.

    Args:
        scale: Of the recipe.
        batch: Images of a micro-batch.
        compiles_frozen: Compile the frozen networks' layers too, which mimflow-train does not.
    """
    config = RECIPES[scale](IMAGENET_CLASSES, "folder")
    encoder = config.model.encoder
    calls: list[Call] = []

    def part(name: str, work: Callable[[], object]) -> Part:
        calls.clear()
        count, inside = traffic(work), list(calls)
        if inside:
            model.zero_grad()  # a second gradient would be added to the first
        kinds = {call.kind: call for call in inside}
        alone = {kind: call.dispatched() for kind, call in kinds.items()}
        return Part(name, count, inside, alone)

    def compiled_level(*args: Tensor) -> Tensor:
        calls.append(Call(level_distance, args))
        return level_distance(*args)

    with torch.device("meta"):
        model = MIMFlow(config.trained_model)
        dinov2 = timm.create_model(DINOV2_NAME, img_size=(encoder.image_size,) * 2, patch_size=16)
        clip = empty_image_tower(encoder.grid)
        vgg16, convnext = lpips_network(linear_weights=False), convnext_small()
    with FakeTensorMode(allow_non_fake_inputs=True), imitated_gpu(), _bf16():
        model = remade(model, _like)
        dinov2, clip, vgg16, convnext = map(_frozen, (dinov2, clip, vgg16, convnext))
        layers = transformer_layers(model)
        if compiles_frozen:
            both = (*dinov2.modules(), *clip.modules(), *convnext.modules())
            layers += [each for each in both if isinstance(each, FROZEN_LAYERS)]
        for layer in layers:
            layer.register_forward_pre_hook(lambda each, args: calls.append(Call(each, args)))
        image = torch.empty(batch, 3, encoder.image_size, encoder.image_size)
        masked = torch.zeros(batch, encoder.num_patches, dtype=torch.bool)
        depth = torch.rand(batch, config.model.decoder.depth, 2)
        z = torch.empty(batch, encoder.num_latents, encoder.latent_dim, requires_grad=True)
        parts = [
            part("encoder", lambda: model.encoder(image, masked).mean),
            part("flow", lambda: tuple(model.flow(z))),
            part("pixel decoder", lambda: model.decoder(z, uniform=depth)),
            part("feature decoders", lambda: [each(z) for each in model.feature_decoders.values()]),
        ]
        made = torch.empty_like(image).requires_grad_()
        lpips, logits = LpipsDistance(vgg16), ConvNextDistance(convnext)
        lpips.level_distance = compiled_level

        def passes(distance: PerceptualDistance) -> Tensor:
            return distance(made, distance.of(image))

        parts += [
            part("DINOv2", lambda: dinov2.forward_features(image)),
            part("CLIP", lambda: clip.forward_intermediates(image, indices=1)),
            part("LPIPS (VGG16)", lambda: passes(lpips)),
            part("ConvNeXt-S", lambda: passes(logits)),
        ]
        return parts + [part(name, work) for name, work in update(model).items()]


def update(model: nn.Module) -> dict[str, Callable[[], object]]:
    """Return what a step does with all gradients."""
    weights = list(model.parameters())
    average = [torch.empty_like(each) for each in weights]
    for each in weights:
        each.grad = torch.empty_like(each)
    optimizer = torch.optim.AdamW(weights, fused=True)
    optimizer.step()  # makes its moments

    def move_average() -> None:
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 0.1)

    return {
        "clip": lambda: nn.utils.clip_grad_norm_(weights, 1.0, foreach=True),
        "AdamW": optimizer.step,
        "average": move_average,
    }


def compiled(parts: list[Part]) -> list[Count]:
    """Return what is left of each part where its calls are compiled; each kind runs once."""
    kinds = {call.kind: call for part in parts for call in part.calls}
    fused = {kind: call.fused() for kind, call in kinds.items()}
    counts = []
    for part in parts:
        count = part.count
        for call in part.calls:
            count = count.plus(part.alone[call.kind], -1).plus(fused[call.kind])
        counts.append(count)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="L", choices=["S", "B", "L", "XL", "XXL"])
    parser.add_argument("--micro-batch", type=int, default=32)
    parser.add_argument("--bandwidth", type=float, default=3.35, help="of the memory, TB/s")
    parser.add_argument("--compile-frozen", action="store_true", help="as mimflow-train does not")
    options = parser.parse_args()
    parts = joint_step(options.scale, options.micro_batch, compiles_frozen=options.compile_frozen)
    rows = [
        (part.name, part.count, after) for part, after in zip(parts, compiled(parts), strict=True)
    ]
    print("| part | operators | GB | kernels, compiled | GB | ms |\n|---|--:|--:|--:|--:|--:|")
    total = [sum_counts(row[column] for row in rows) for column in (1, 2)]
    for name, plain, after in [*rows, ("together", *total)]:
        milliseconds = after.bytes / options.bandwidth / 1e9
        print(
            f"| {name} | {plain.kernels:,} | {plain.bytes / 1e9:.1f} | {after.kernels:,} "
            f"| {after.bytes / 1e9:.1f} | {milliseconds:.1f} |"
        )


def sum_counts(counts: Iterable[Count]) -> Count:
    total = Count()
    for each in counts:
        total = total.plus(each)
    return total


if __name__ == "__main__":
    main()
