"""Any image tower of open_clip as a feature network, and the one of CMMD."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from genmetrics.errors import UsageError, WeightsUnavailable, did_you_mean
from genmetrics.networks.preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing
from genmetrics.networks.pretrained_networks import (
    PretrainedFeatures,
    checked_interpolation,
    import_library,
    misfit,
)
from genmetrics.networks.weights import find_weights, hub_file

CLIP_MODEL = "ViT-L-14-336-quickgelu"
CLIP_REPOSITORY = "timm/vit_large_patch14_clip_336.openai"
CLIP_FILE = "ViT-L-14-336-openai"
CLIP_URL = f"https://huggingface.co/{CLIP_REPOSITORY}/resolve/main/open_clip_model.safetensors"
# The resize is that of sayakpaul/cmmd-pytorch:embedding.py: torch's own, without antialiasing.
CLIP_PREPROCESSING = Preprocessing(
    size=336,
    scaled=336,
    squash=True,
    interpolation="bicubic",
    pillow=False,
    mean=CLIP_MEAN,
    std=CLIP_STD,
)
_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def open_clip_features(name: str, weights: Path | None = None) -> PretrainedFeatures:
    """Build the image tower of a model of open_clip; its embeddings are not normalised.

    Args:
        name: ``ARCH``, or ``ARCH/TAG`` to have the weights and the preprocessing of a tag.
        weights: A file of the whole model, text tower included; None searches, on the hub only
            with a tag.

    Raises:
        UsageError: If open_clip has no such model or tag, or its preprocessing is not supported.
        WeightsUnavailable: If open_clip or the weights are missing, or the weights do not fit.
    """
    open_clip = import_library("open_clip", "clip")
    architecture, _, tag = name.partition("/")
    _check_name(open_clip, architecture, tag)
    configuration = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    file = find_weights(
        weights,
        [name.replace("/", "-")],
        lambda: _hub_file(open_clip, name, configuration),
        f"open_clip:{name}",
    )
    tower = _image_tower(open_clip, architecture, file, configuration)
    return PretrainedFeatures(tower, _preprocessing(name, tower.preprocess_cfg), file)


def find_clip_weights(weights: Path | None = None, *, download: bool | None = None) -> Path:
    """Return the file of OpenAI's CLIP ViT-L/14 at 336 px, in open_clip's layout.

    Args:
        weights: A file, or None to search.
        download: Whether to fetch what is nowhere; None for yes unless offline.

    Raises:
        WeightsUnavailable: If no file is found.
    """
    return find_weights(
        weights,
        [CLIP_FILE],
        lambda: hub_file(CLIP_REPOSITORY, _FILES, download=download),
        "clip",
    )


def clip_features(file: Path, architecture: str = CLIP_MODEL) -> PretrainedFeatures:
    """Build the network of CMMD: OpenAI's CLIP ViT-L/14 at 336 px.

    Args:
        file: The weights of the whole model, text tower included.
        architecture: open_clip's name of the network.

    Raises:
        WeightsUnavailable: If open_clip is missing or the weights do not fit.
    """
    open_clip = import_library("open_clip", "clip")
    tower = _image_tower(open_clip, architecture, file, {})
    return PretrainedFeatures(tower, CLIP_PREPROCESSING, file)


def _image_tower(
    open_clip: ModuleType, architecture: str, file: Path, configuration: Mapping[str, Any]
) -> Any:
    """Load a whole model, strictly and without running code from the file; keep what sees."""
    wanted = ("mean", "std", "interpolation", "resize_mode")
    try:
        model = open_clip.create_model(
            architecture,
            pretrained=str(file),
            force_preprocess_cfg={k: configuration[k] for k in wanted if k in configuration},
        )
    except Exception as error:  # the library's loaders raise unrelated types
        raise misfit(f"open_clip:{architecture}", file, error) from error
    return model.visual


def _preprocessing(name: str, configuration: Mapping[str, Any]) -> Preprocessing:
    size = configuration["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mode = configuration["resize_mode"]
    if height != width or mode not in ("shortest", "squash"):
        raise UsageError(
            f"Expected a model of open_clip that sees squares, squashed or cut from the middle; "
            f"open_clip:{name} sees {width}x{height}, {mode}. Choose another model."
        )
    return Preprocessing(
        size=height,
        scaled=height,
        squash=mode == "squash",
        interpolation=checked_interpolation(name, configuration["interpolation"]),
        mean=tuple(configuration["mean"]),
        std=tuple(configuration["std"]),
    )


def _check_name(open_clip: ModuleType, architecture: str, tag: str) -> None:
    if architecture not in open_clip.list_models():
        near = did_you_mean(architecture, open_clip.list_models())
        raise UsageError(f"Expected a model of open_clip; got open_clip:{architecture}.{near}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and tag not in tags:
        raise UsageError(
            f"Expected a tag of open_clip:{architecture} ({', '.join(tags) or 'it has none'}); "
            f"got {tag!r}.{did_you_mean(tag, tags)}"
        )
    if not tag:
        return
    wanted = open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu", False)
    if wanted != open_clip.get_model_config(architecture).get("quick_gelu", False):
        raise UsageError(
            f"Expected the activation that {tag} was trained with; open_clip:{architecture} has "
            f"another. Choose the name {'with' if wanted else 'without'} -quickgelu."
        )


def _hub_file(open_clip: ModuleType, name: str, configuration: Mapping[str, Any]) -> Path:
    if not configuration:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise WeightsUnavailable(
            f"Expected a tag that says which weights of open_clip:{name} (ARCH/TAG); "
            f"its tags: {tags}."
        )
    repository, _, file = configuration.get("hf_hub", "").rpartition("/")
    if not repository:
        raise WeightsUnavailable(f"Expected open_clip:{name} on the hub; it is not there.")
    return hub_file(repository, (file,) if file else _FILES)
