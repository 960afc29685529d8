"""What one command reproduces with: recipe, seeds, folder, device, and how samples are judged."""

import hashlib
import json
import operator
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from genmetrics import Extractor, extract, get_extractor, open_images
from mimflow_train.config import OPERATIONAL, TrainConfig
from mimflow_train.config.file import to_dict
from mimflow_train.data.images import LabelledImages, in_batches
from mimflow_train.data.source import load_data
from mimflow_train.engine.launch import Launch
from mimflow_train.evaluation.pictures import save_npz
from mimflow_train.evaluation.selection import CHUNK
from mimflow_train.recipes import RECIPES
from mimflow_train.reproduce.design import Experiment
from mimflow_train.storage.lock import locked_in_turn

__all__ = ["Session", "digest"]


@dataclass(frozen=True, kw_only=True)
class Session:
    """One call of ``mimflow-reproduce NAME``.

    Attributes:
        base: The scale's recipe with the user's changes.
        settings: These changes, which an experiment's own do not undo.
        seeds: One run of every row for each.
        out: Receives ``runs/`` and a folder of the experiment's name.
        device: Where everything is computed.
        launch: How runs are trained under Ray; None for on the device, in this process.
        extractor_name: Feature network of the scores.
        num: Samples of each row; 0 is the experiment's number.
        quick: Whether this is a smoke test, whose numbers mean nothing.
    """

    base: TrainConfig
    seeds: tuple[int, ...]
    out: Path
    device: torch.device
    settings: tuple[str, ...] = ()
    launch: Launch | None = None
    extractor_name: str = "efflite0"
    num: int = 0
    quick: bool = False

    @cached_property
    def data(self) -> LabelledImages:
        """The images; all rows see the same."""
        return load_data(self.base)

    @cached_property
    def extractor(self) -> Extractor:
        """The feature network of the scores."""
        return get_extractor(self.extractor_name, device=str(self.device))

    @cached_property
    def reference(self) -> Path:
        """The held-out images as a file that all rows are judged against; made if need be."""
        split, size = self.data.held_out, self.base.model.encoder.image_size
        place = "" if self.base.data.fingerprint else self.base.data.source
        name = digest([place, self.base.data.fingerprint, size])
        path = self.out.resolve() / "scores" / f"held-out-{name}.npz"
        with locked_in_turn(path.parent):
            if not path.exists():
                save_npz(in_batches(split.images, CHUNK), split.labels, path)
        return path

    @cached_property
    def real_features(self) -> Float[Tensor, "b f"]:
        """What the feature network says of the held-out images."""
        cache = self.real_features_folder
        features = extract(open_images(self.reference), self.extractor, cache=cache)
        return features[self.extractor.main_output]

    @property
    def real_features_folder(self) -> Path:
        """Where features of the held-out images are kept, all outputs of each network."""
        return self.out.resolve() / "scores" / "held-out-features"

    def num_samples(self, experiment: Experiment) -> int:
        """Return how many samples of each row are drawn: all rows of a table have as many.

        Args:
            experiment: The table.
        """
        usual = 0 if self.base.scale == "tiny" else experiment.num
        return self.num or usual or len(self.data.held_out.labels)

    def run_dir(self, config: TrainConfig) -> Path:
        """Return the folder of a run, the same for equal configurations.

        Args:
            config: The run.
        """
        recipe = RECIPES[config.scale](config.data.class_names, config.data.source)
        # What samples are drawn with afterwards makes no other run of it.
        plain = to_dict(replace(config, guidance=recipe.guidance))
        if config.model.convolutional is None:  # runs from before there was a choice keep theirs
            del plain["model"]["convolutional"]
        if config.data.fingerprint:  # the same images at another place are the same
            del plain["data"]["source"]
        for path in OPERATIONAL:
            *parents, name = path.split(".")
            reduce(operator.getitem, parents, plain).pop(name)
        kind = "flow" if config.model.is_autoencoder_fixed else "joint"
        name = f"{config.scale}-{kind}-{digest(plain)}-seed{config.seed}"
        return self.out.resolve() / "runs" / name


def digest(value: Any) -> str:
    """Return ten hexadecimal digits that belong to a value of plain ones and configurations.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    text = json.dumps(value, sort_keys=True, default=to_dict)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
