"""``mimflow-reproduce``: the paper's tables and figures, ours beside theirs."""

import dataclasses
import difflib
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from genmetrics.networks.extractor_names import check_extractor_name
from mimflow_train.cli.build_config import require_scale
from mimflow_train.cli.command import parse, run
from mimflow_train.cli.preflight import (
    choose_launch,
    require_equal_shares,
    require_packages,
)
from mimflow_train.config import TrainConfig
from mimflow_train.config.overrides import override
from mimflow_train.data.glyphs import CLASS_NAMES
from mimflow_train.data.layout import read_layout, require_apart
from mimflow_train.device.machine import computing_device, require_gpu
from mimflow_train.engine.launch import Launch
from mimflow_train.engine.workers import Workers
from mimflow_train.errors import ConfigError, DataError
from mimflow_train.recipes import IMAGENET_CLASSES, RECIPES
from mimflow_train.reproduce.design import Experiment
from mimflow_train.reproduce.experiments import EXPERIMENTS
from mimflow_train.reproduce.quick import QUICK_SETTINGS, quick_images
from mimflow_train.storage.provenance import code_commit
from mimflow_train.telemetry.console import say

if TYPE_CHECKING:
    import torch

    from mimflow_train.reproduce.outcome import Origin
    from mimflow_train.reproduce.session import Session

PROGRAM = "mimflow-reproduce"
_SEE_LIST = "`mimflow-reproduce list` shows them."
_LEAST_JUDGED = 4  # precision and recall look at the third nearest neighbour


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Reproduce a table or figure of the paper: train what is missing, measure, write a report.

    Examples: `mimflow-reproduce list`; `mimflow-reproduce table5-mask --seeds 0,1,2`;
    `mimflow-reproduce all --quick`; `mimflow-reproduce table3 --scale L --data imagenet/
    --workers 8`. The same command again goes on, and gives the same numbers on CPU.
    """

    name: Annotated[str, tyro.conf.Positional]
    """What to reproduce: a name that `list` shows, `all`, or `list`."""
    scale: str = "tiny"
    """Recipe: tiny (32 px), or S, B, L, XL, XXL (256 px); L is the paper's model."""
    data: str | None = None
    """A folder with one sub-folder of images for each class, or `emoji`, tiny's default."""
    out: Path = Path("runs/reproduce")
    """Receives runs, scores, and for each name a folder (with -SCALE off tiny) of the report."""
    seeds: str = "0"
    """Seeds, with commas between; every row is trained for each."""
    quick: bool = False
    """A smoke test of scale tiny in OUT/quick: minutes for all, and no number means anything."""
    num: int = 0
    """Samples of each row; 0 is the paper's 10,000 or 50,000, at tiny as many as are held out."""
    extractor: str | None = None
    """Feature network of the scores; efflite0 at scale tiny, else inception, if not given."""
    workers: str = "1"
    """Devices to train on; more than one run under Ray Train, MIN-MAX on what a cluster has."""
    ray_address: str | None = None
    """Ray cluster to train on, HOST:PORT or auto (RAY_ADDRESS); this machine judges."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Kind of device; auto takes CUDA where there is one."""
    row: Annotated[list[str], tyro.conf.UseAppendAction] = dataclasses.field(default_factory=list)
    """Only this row of the table, by its label; repeatable. The report says which are left out."""
    set: Annotated[list[str], tyro.conf.UseAppendAction] = dataclasses.field(default_factory=list)
    """Change one value of the recipe of all rows, such as steps=1100; repeatable."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    options = parse(ReproduceOptions, arguments, PROGRAM)
    command = shlex.join([PROGRAM, *(sys.argv[1:] if arguments is None else arguments)])
    sys.exit(run(lambda: _main(options, command), PROGRAM))


def _main(options: ReproduceOptions, command: str) -> int:
    chosen = _chosen(options)
    seeds = _seeds(options.seeds)
    _check_numbers(options)
    extractor = options.extractor or ("efflite0" if options.scale == "tiny" else "inception")
    check_extractor_name(extractor)
    out = options.out / "quick" if options.quick else options.out
    base = _recipe(options, out)
    launch = None
    if options.name != "list":
        launch = _launch(options, base, list(chosen.values()))

    # Imports torch, so after everything that a user can get wrong without it.
    from mimflow_train.reproduce.session import Session

    session = Session(
        base=base,
        seeds=seeds,
        out=out,
        device=computing_device("cpu" if options.name == "list" else options.device),
        settings=tuple(options.set),
        launch=launch if launch and launch.engine == "ray" else None,
        extractor_name=extractor,
        num=options.num,
        quick=options.quick,
    )
    if options.name == "list":
        from mimflow_train.reproduce.estimate import to_text

        sys.stdout.write(to_text(session, chosen))
        return 0

    from mimflow_train.reproduce.needs import require_networks

    require_networks(session, list(chosen.values()))
    for name, experiment in chosen.items():
        sys.stdout.write(_reproduce(session, name, experiment, command) + "\n")
    return 0


def _chosen(options: ReproduceOptions) -> Mapping[str, Experiment]:
    """Return the experiments that are asked for, by name."""
    name = options.name
    if name in ("all", "list"):
        if options.row:
            raise ConfigError(f"Expected --row with one name; got {name}. Name the table.")
        return EXPERIMENTS
    if name not in EXPERIMENTS:
        begun = [each for each in EXPERIMENTS if each.startswith(name)]
        close = begun or difflib.get_close_matches(name, EXPERIMENTS, n=1)
        advice = f"Did you mean {' or '.join(close)}?" if close else _SEE_LIST
        raise ConfigError(f"Expected list, all or the name of an experiment; got {name}. {advice}")
    if options.row:
        return {name: _rows_alone(options)}
    return {name: EXPERIMENTS[name]}


def _rows_alone(options: ReproduceOptions) -> Experiment:
    """Return the experiment of one name with the rows that are asked for."""
    experiment = EXPERIMENTS[options.name]
    if not experiment.has_single_rows:
        raise ConfigError(
            f"Expected {options.name} as a whole, whose rows are made together; got --row. Drop it."
        )
    labels = [each.label for each in experiment.variants if not each.why_not(options.scale)]
    for row in options.row:
        if row not in labels:
            close = difflib.get_close_matches(row, labels, n=1)
            advice = f"Did you mean '{close[0]}'?" if close else "Copy one from here."
            rows = "; ".join(labels)
            raise ConfigError(f"Expected --row as one of: {rows}; got '{row}'. {advice}")
    return experiment.only(options.row)


def _seeds(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    seeds = tuple(int(part) for part in parts if part.isdecimal())
    if len(set(seeds)) < len(parts):
        raise ConfigError(f"Expected --seeds as different numbers; got {text}. Give 0,1,2.")
    return seeds


def _check_numbers(options: ReproduceOptions) -> None:
    if options.num < 0:
        raise ConfigError(f"Expected --num >= 0; got {options.num}.")
    if 0 < options.num < _LEAST_JUDGED:
        raise ConfigError(
            f"Expected --num >= {_LEAST_JUDGED} samples, which precision and recall need, or 0 for "
            f"the usual number; got {options.num}."
        )
    for setting in options.set:
        key, _, value = setting.partition("=")
        if key == "seed":
            raise ConfigError(
                f"Expected seeds in --seeds; got --set {setting}. Give --seeds {value}."
            )


def _launch(
    options: ReproduceOptions, base: TrainConfig, experiments: Sequence[Experiment]
) -> Launch:
    """Return how to train; raise if what the experiments are computed with is missing."""
    workers = Workers.parse(options.workers)
    if any(each.trains for each in experiments):
        require_packages(base.data.source)
        require_equal_shares(base, workers)
    if base.cuda_graph and any(each.measure in ("step", "tokens") for each in experiments):
        raise ConfigError(
            "Expected timings of table4 and table10 without cuda_graph, which they do not record; "
            "got true. Leave it out, or name another table."
        )
    if any(each.measure != "parameters" for each in experiments):
        require_gpu(options.scale, options.device)
    return choose_launch("auto", workers, options.device, address=options.ray_address)


def _recipe(options: ReproduceOptions, out: Path) -> TrainConfig:
    """Return the scale's recipe with the user's changes, for the images that there are."""
    require_scale(options.scale)
    if options.quick and options.scale != "tiny":
        raise ConfigError(f"Expected --scale tiny with --quick; got {options.scale}. Drop one.")
    names, source, fingerprint = _images(options, out)
    settings = [*(QUICK_SETTINGS if options.quick else ()), *options.set]
    base = override(RECIPES[options.scale](names, source), settings)
    data = dataclasses.replace(base.data, fingerprint=fingerprint)
    return dataclasses.replace(base, data=data)


def _images(options: ReproduceOptions, out: Path) -> tuple[tuple[str, ...], str, str]:
    """Return the class names, the source and the fingerprint of the images."""
    source = options.data or ("emoji" if options.scale == "tiny" else None)
    trains = any(each.trains for each in _chosen(options).values())
    if options.data is None and (options.name == "list" or not trains):
        if options.scale == "tiny":
            return CLASS_NAMES, "emoji", ""
        return IMAGENET_CLASSES, "imagenet", ""
    if source is None:
        raise ConfigError(
            f"Expected --data with --scale {options.scale}; got none. Give a folder of images such "
            "as ImageNet's."
        )
    if source == "emoji" and not options.quick:
        return CLASS_NAMES, source, ""
    size = RECIPES[options.scale](CLASS_NAMES, "emoji").model.encoder.image_size
    root = quick_images(out / "images", size) if source == "emoji" else Path(source)
    require_apart(out, root)
    layout = read_layout(root.resolve(), say)
    if len(layout.class_names) == 1:
        raise DataError(
            f"Expected images of several classes in {root}, which the paper's tables are about; "
            "got one. Give another folder."
        )
    if len(layout.held_out) < _LEAST_JUDGED:
        raise DataError(
            f"Expected at least {_LEAST_JUDGED} held-out images in {root} to judge by; got "
            f"{len(layout.held_out)}. Add images."
        )
    return layout.class_names, str(root.resolve()), layout.fingerprint


def _reproduce(session: "Session", name: str, experiment: Experiment, command: str) -> str:
    """Measure one experiment and write its report; return the Markdown."""
    from mimflow_train.reproduce.estimate import left_text
    from mimflow_train.reproduce.measure import measure
    from mimflow_train.reproduce.report import write_report

    scale = session.base.scale
    folder = name if scale == "tiny" else f"{name}-{scale}"
    say(f"{name}: {experiment.title}. {left_text(session, experiment)}")
    began = time.monotonic()
    outcome = measure(session, folder, experiment)
    origins = [origin for row in outcome.rows for origin in row.runs]
    made = _made(session, command, origins)
    made["report_seconds"] = round(time.monotonic() - began, 1)
    return write_report(session.out / folder, experiment, outcome, made)


def _made(session: "Session", command: str, runs: "list[Origin]") -> dict[str, Any]:
    """Return what made the runs, by their checkpoints, and what made this report of them."""
    import torch

    here, version = code_commit() or "unknown", str(torch.__version__)
    return {
        "command": command,
        "scale": session.base.scale,
        "steps": _each_once([run.steps for run in runs]) or "none",
        "seeds": ", ".join(map(str, session.seeds)),
        "quick": session.quick,
        "commit": _each_once([run.commit for run in runs]) or here,
        "torch": _each_once([run.torch for run in runs]) or version,
        "precision": _each_once([run.precision for run in runs]) or "none was trained",
        "report_commit": here,
        "report_torch": version,
        "report_hardware": _hardware(session.device),
        "report_date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def _each_once(values: list[Any]) -> str:
    return ", ".join(map(str, sorted(set(values))))


def _hardware(device: "torch.device") -> str:
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    from mimflow_train.device.machine import count_cores

    return f"{count_cores()} CPU cores, {_cpu_name()}"


def _cpu_name() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
