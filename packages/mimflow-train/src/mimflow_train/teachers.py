"""What the frozen networks of a run say about its images: feature targets and perception.

All see images in [-1, 1]. They are never part of the model, so no state dict holds them.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mimflow_train.config import TEACHERS, ConvolutionalConfig, TrainConfig
from mimflow_train.convolutional import SD_VAE_FILE
from mimflow_train.data.images import ImageSource, LabelledImages, MemoryImages, to_unit
from mimflow_train.frozen.clip import CLIP_FILE, ClipTeacher
from mimflow_train.frozen.dino import DINO_FILE
from mimflow_train.frozen.dinov2 import DINOV2_FILE, DinoV2Teacher
from mimflow_train.frozen.efflite0 import EffLite0Distance, EffLite0Teacher
from mimflow_train.frozen.hog import HogTeacher
from mimflow_train.frozen.perceptual import (
    CONVNEXT_FILE,
    VGG16_FILE,
    ConvNextDistance,
    LpipsDistance,
    PerceptualDistance,
    PerceptualLoss,
)
from mimflow_train.frozen.teacher import FeatureTarget, Teacher
from mimflow_train.frozen.weights import PretrainedFile, find_weights
from mimflow_train.micro_batches import precision

__all__ = [
    "Targets",
    "build_perceptual",
    "build_teacher",
    "feature_bank",
    "near",
    "needed_files",
    "require_weights",
]

_CHUNK = 64
_MOST_ON_DEVICE = 2**30  # bytes of one bank
_MOST_KEPT = 2**31  # bytes of all banks of a worker; more are computed in each step


@dataclass(frozen=True)
class Targets:
    """What the frozen networks say about the training images.

    Attributes:
        perceptual: Distance of two image batches; None if its weight is 0.
        teachers: Each teacher by name.
        banks: Features of every training image, for the teachers whose features fit in memory; on
            the device if they are few.
    """

    perceptual: PerceptualDistance | None
    teachers: dict[str, Teacher]
    banks: dict[str, Tensor]

    @classmethod
    def load(cls, config: TrainConfig, data: LabelledImages, device: torch.device) -> "Targets":
        """Build the frozen networks that a run asks for.

        Raises:
            WeightsError: If the weights of one are not on this machine.
        """
        grid = config.model.encoder.grid
        names = config.trained_model.features
        images = data.train.images
        sizes = (len(images) * math.prod(grid) * TEACHERS[name] * 2 for name in names)
        is_seen_again = isinstance(images, MemoryImages) and not config.data.flip
        keep = is_seen_again and sum(sizes) <= _MOST_KEPT
        # Networks are built for the precision of a step; banks are made before it, in float32.
        with contextlib.nullcontext() if keep else precision(device, config.precision):
            teachers = {name: build_teacher(name, grid, device) for name in names}
        banks = {name: feature_bank(each, images) for name, each in teachers.items() if keep}
        banks = {name: near(each, device) for name, each in banks.items()}
        return replace(cls.without_teachers(config, device), teachers=teachers, banks=banks)

    @classmethod
    def without_teachers(cls, config: TrainConfig, device: torch.device) -> "Targets":
        """Build the perceptual distance alone, which is all that the decoder phase asks for.

        Raises:
            WeightsError: If its weights are not on this machine.
        """
        perceptual = None
        if config.loss.perceptual > 0:
            network = config.loss.perceptual_network
            with precision(device, config.precision):
                perceptual = build_perceptual(network, device, compiled=config.compile)
        return cls(perceptual, {}, {})

    def features(self, image: Tensor, indices: Tensor) -> dict[str, FeatureTarget]:
        """Return each teacher's features of a batch, with its distance."""
        return {
            name: FeatureTarget(
                self._kept(name, indices).to(image) if name in self.banks else teacher(image),
                teacher.distance,
            )
            for name, teacher in self.teachers.items()
        }

    def distance_to(self, image: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Return the perceptual distance to a batch, which its networks have looked at already."""
        if self.perceptual is None:
            return None
        return partial(self.perceptual, wanted=self.perceptual.of(image))

    def _kept(self, name: str, indices: Tensor) -> Tensor:
        bank = self.banks[name]
        return bank[indices.to(bank.device, non_blocking=True)]


def needed_files(
    config: TrainConfig, *, joint_phase: bool, decoder_phase: bool
) -> list[PretrainedFile]:
    """Return the weight files that a run needs besides those that packages ship.

    Args:
        config: The run.
        joint_phase: Whether any of the joint phase is left, which alone asks for teachers.
        decoder_phase: Whether it goes on to the decoder phase.
    """
    needed = []
    if config.loss.perceptual and config.loss.perceptual_network == "lpips":
        needed += [VGG16_FILE, CONVNEXT_FILE]
    files = {"dinov2": DINOV2_FILE, "clip": CLIP_FILE}
    if joint_phase:
        needed += [file for name, file in files.items() if name in config.trained_model.features]
    if config.model.convolutional == ConvolutionalConfig(fixed=True):
        needed.append(SD_VAE_FILE)
    if decoder_phase and config.decoder_phase.discriminator.kind == "dino":
        needed.append(DINO_FILE)
    return needed


def require_weights(config: TrainConfig, *, joint_phase: bool, decoder_phase: bool) -> None:
    """Find every file of :func:`needed_files`, or fetch it once, before workers ask for it.

    Args:
        config: The run.
        joint_phase: Whether any of the joint phase is left.
        decoder_phase: Whether it goes on to the decoder phase.

    Raises:
        WeightsError: If one cannot be had.
    """
    for file in needed_files(config, joint_phase=joint_phase, decoder_phase=decoder_phase):
        find_weights(file)


def build_teacher(name: str, grid: tuple[int, int], device: torch.device) -> Teacher:
    """Return the teacher of this name in ``config.TEACHERS``, which has its numbers per patch.

    A teacher of your own is a line there, a case here and, for the dry run, one in
    :func:`~mimflow_train.frozen.costs.frozen_costs`; one with weights of its own also a line in
    :func:`needed_files`.

    Raises:
        WeightsError: If its weights are not on this machine.
        KeyError: If there is none of this name here.
    """
    match name:
        case "efflite0":
            return EffLite0Teacher(grid, device)
        case "hog":
            return HogTeacher(grid, device)
        case "dinov2":
            return DinoV2Teacher(find_weights(DINOV2_FILE), grid, device)
        case "clip":
            return ClipTeacher(find_weights(CLIP_FILE), grid, device)
    raise KeyError(f"Expected a teacher that build_teacher makes; got {name}. Add a case for it.")


def build_perceptual(
    name: Literal["efflite0", "lpips"], device: torch.device, *, compiled: bool = False
) -> PerceptualDistance:
    """Return the perceptual distance: ``efflite0``, or ``lpips`` with its ConvNeXt term.

    Args:
        name: The network.
        device: Where it runs.
        compiled: Compile what LPIPS does besides its network.

    Raises:
        WeightsError: If its weights are not on this machine.
    """
    if name == "efflite0":
        return EffLite0Distance.load(device)
    return PerceptualLoss(
        LpipsDistance.load(find_weights(VGG16_FILE), device, compiled=compiled),
        ConvNextDistance.load(find_weights(CONVNEXT_FILE), device),
    )


def near(bank: Float[Tensor, "m n f"], device: torch.device) -> Float[Tensor, "m n f"]:
    """Return a bank on the device if it is small: a copy in every step would wait for the GPU.

    Args:
        bank: Features of a training set.
        device: Where steps are computed.
    """
    return bank.to(device) if bank.nbytes <= _MOST_ON_DEVICE else bank


def feature_bank(
    teacher: Callable[[Tensor], Tensor], images: ImageSource
) -> Float[Tensor, "m n f"]:
    """Return a teacher's features of every image of a small set, on the CPU in half precision.

    Args:
        teacher: Maps images in [-1, 1] to one vector for each patch.
        images: The set; its features must fit in memory.
    """
    chunks = torch.arange(len(images)).split(_CHUNK)
    stacks = (torch.stack([images[int(index)] for index in chunk]) for chunk in chunks)
    return torch.cat([teacher(to_unit(stack)).half().cpu() for stack in stacks])
