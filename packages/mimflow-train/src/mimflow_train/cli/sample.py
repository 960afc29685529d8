"""``mimflow-sample``: draws new images from a run."""

import dataclasses
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from genmetrics.errors import did_you_mean
from mimflow_train.cli.command import parse, run
from mimflow_train.config.file import read_config
from mimflow_train.device.machine import computing_device
from mimflow_train.errors import ConfigError
from mimflow_train.storage.run_folder import FILES_OF_A_RUN
from mimflow_train.telemetry.console import counted

if TYPE_CHECKING:
    from torch import Tensor

PROGRAM = "mimflow-sample"


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Draw new images from a trained run, with its averaged weights, or the raw ones if it says so.

    Examples: `mimflow-sample runs/tiny-emoji --num 12 --out grid.png`;
    `mimflow-sample runs/tiny-emoji --label flag --label food --num 500 --out samples.npz`;
    `mimflow-sample model.safetensors --num 50 --out samples/`.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of mimflow-train, or a .safetensors file: a milestone or one of
    `mimflow-inspect --export`."""
    label: Annotated[list[str], tyro.conf.UseAppendAction] = dataclasses.field(default_factory=list)
    """Class to draw, by name or number; repeatable. All classes if not given, of which a grid shows
    twelve."""
    num: int = 12
    """Images of each class."""
    guidance: float | None = None
    """Guidance scale, 0 for none; the run's own if not given."""
    temperature: float = 1.0
    """Standard deviation of the base noise."""
    seed: int = 0
    """Seed of the base noise."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Kind of device; auto takes CUDA where there is one."""
    out: Path = Path("samples.png")
    """A grid (.png), an array (.npz, arr_0 uint8 NHWC and arr_1 labels), or a folder of PNGs."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    options = parse(SampleOptions, arguments, PROGRAM)
    sys.exit(run(lambda: _main(options), PROGRAM))


def _main(options: SampleOptions) -> int:
    if options.num < 1:
        raise ConfigError(f"Expected --num >= 1; got {options.num}.")
    if not 0 <= options.temperature < math.inf:
        raise ConfigError(
            f"Expected --temperature of at least 0; got {options.temperature}. The model's is 1."
        )
    if options.out.suffix not in ("", ".npz", ".png"):
        raise ConfigError(
            f"Expected --out as a .png, a .npz or a folder; got {options.out}. Rename it."
        )
    if options.out.suffix == "" and options.out.is_dir() and any(options.out.iterdir()):
        raise ConfigError(
            f"Expected a new or empty folder as --out; {options.out} has files, which would be "
            "taken for samples of this run. Remove them, or name another."
        )
    if options.out.name in FILES_OF_A_RUN and options.out.resolve().parent == options.run.resolve():
        raise ConfigError(
            f"Expected another --out than {options.out}, which is the run's own. Name a new file."
        )
    config = read_config(options.run)
    if options.guidance is not None:
        config = dataclasses.replace(config, guidance=options.guidance)
    labels = choose_labels(options.label, config.data.class_names)
    if options.out.suffix == "":
        _require_folders([config.data.class_names[label] for label in labels])
    # Imports torch, so after everything that a user can get wrong without it.
    device = computing_device(options.device)

    import torch

    from mimflow_train.draws import generator
    from mimflow_train.evaluation.run_pictures import shown_classes
    from mimflow_train.evaluation.sampling import generate
    from mimflow_train.pretrained import trained_model

    model = trained_model(config, options.run, device)
    if options.out.suffix == ".png" and not options.label:
        labels = shown_classes(len(labels)).unique().tolist()
    wanted = torch.tensor(labels).repeat_interleave(options.num)
    draw = generator(options.seed, "mimflow-sample")
    guidance, temperature = config.own_guidance, options.temperature
    batches = generate(model, wanted, draw, guidance=guidance, temperature=temperature)
    _save(counted(batches, len(wanted), "samples"), wanted, config.data.class_names, options.out)
    drawn = [config.data.class_names[label] for label in labels]
    whose = f" of {', '.join(drawn)}" if len(drawn) < len(config.data.class_names) else ""
    sys.stdout.write(f"{len(wanted)} images{whose} in {options.out}\n")
    return 0


def choose_labels(wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return class numbers for names or numbers, each once; all classes for none.

    Numbers are those of the sorted classes, unless a class is called by a number.

    Raises:
        ConfigError: If there is no such class.

    Example:
        >>> choose_labels(["flag", "0", "flag"], ["food", "flag"])
        [1, 0]
    """
    labels = []
    are_numbered = not any(name.isdecimal() for name in names)
    for each in wanted:
        if each in names:
            labels.append(names.index(each))
        elif are_numbered and each.isdecimal() and int(each) < len(names):
            labels.append(int(each))
        else:
            advice = did_you_mean(each, names) or f" Choose from {', '.join(names)}."
            raise ConfigError(f"Expected a class of the run as --label; got {each}.{advice}")
    return list(dict.fromkeys(labels)) or list(range(len(names)))


def _require_folders(names: Sequence[str]) -> None:
    """Refuse names that lead out of a folder, which a file of weights may come with."""
    for name in names:
        if name in ("", ".", "..") or set(name) & {"/", "\0"}:
            raise ConfigError(
                f"Expected class names that a folder can have; got {name!r}. Give --out as a .png "
                "or a .npz, or name other classes by --label."
            )


def _save(batches: "Iterable[Tensor]", labels: "Tensor", names: Sequence[str], out: Path) -> None:
    """Write images while they are drawn; a grid when all of them are there."""
    import torch
    from PIL import Image

    from mimflow_train.evaluation.pictures import channels_last, save_grid, save_npz

    if out.suffix == ".png":
        per_class = len(labels) // len(labels.unique())
        rows = torch.cat([*batches]).split(per_class)
        save_grid(rows, [names[label] for label in labels[::per_class].tolist()], out)
    elif out.suffix == ".npz":
        save_npz(batches, labels, out)
    else:
        images = (image for batch in batches for image in channels_last(batch))
        for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            folder = out / names[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number:06d}.png")
