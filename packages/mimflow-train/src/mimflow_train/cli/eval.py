"""``mimflow-eval``: scores of a run through genmetrics."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from genmetrics.evaluation.protocols import choose_protocol
from genmetrics.networks.extractor_names import check_extractor_name
from mimflow_train.cli.command import parse, run
from mimflow_train.config import TrainConfig
from mimflow_train.config.file import read_config
from mimflow_train.data.glyphs import CLASS_NAMES
from mimflow_train.data.layout import read_layout
from mimflow_train.device.machine import computing_device
from mimflow_train.errors import ConfigError
from mimflow_train.telemetry.console import say

PROGRAM = "mimflow-eval"


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Score a trained run: samples and reconstructions against held-out images.

    A run folder's report.html is written anew and shows them.

    Examples: `mimflow-eval runs/tiny-emoji`;
    `mimflow-eval runs/tiny-emoji --spectra 8 --probe 2000`;
    `mimflow-eval runs/L/milestones/step_00050000.safetensors --data imagenet/`;
    `mimflow-eval runs/L --extractor inception --metrics fid,sfid,is,pr --num 50000 --json l.json`.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of mimflow-train, or a .safetensors file: a milestone or one of
    `mimflow-inspect --export`."""
    data: str | None = None
    """A folder of images with the run's classes, or `emoji`; those of the run if not given."""
    extractor: str = "efflite0"
    """Feature network of genmetrics: efflite0, inception, dinov2, clip, timm:NAME, ..."""
    metrics: str = "fid,pr"
    """What is computed of the samples: fid, sfid, is, pr, dc, kid, fd_inf, cmmd."""
    num: int = 0
    """Samples; 0 is as many as there are held-out images."""
    spectra: int = 0
    """Held-out latents at which the ends of the flow's Jacobian are computed, the slowest part; 0,
    the default, for none. 8 at scale tiny."""
    inversion: int = 256
    """Held-out latents that are sent through the flow and back, at most."""
    probe: int = 0
    """Training images from which linear probes learn the class, at every depth; 0, the default,
    for no probe. 50 of each class, and 2000 at scale tiny, are enough."""
    guidance: float | None = None
    """Guidance scale, 0 for none; the run's own if not given."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Kind of device; auto takes CUDA where there is one."""
    json: Path | None = None
    """Also write everything to this JSON file, or print it in place of the tables if it is `-`;
    RUN/eval/scores.json has it in any case (weights.eval/scores.json for weights.safetensors)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    options = parse(EvalOptions, arguments, PROGRAM)
    sys.exit(run(lambda: _main(options), PROGRAM))


def _main(options: EvalOptions) -> int:
    _check_numbers(options)
    config = _config(options)
    _require_report(options.json)
    names = tuple(options.metrics.split(","))
    extractor_name = check_extractor_name(options.extractor)
    protocol = choose_protocol(None, extractor_name, metrics=names)
    # Imports torch, so after everything that a user can get wrong without it.
    device = computing_device(options.device)

    from genmetrics import get_extractor
    from genmetrics.evaluation.feasibility import require_enough, require_network
    from genmetrics.evaluation.report import ImageSet
    from mimflow_train.data.source import load_data
    from mimflow_train.evaluation.scores import Judging, score_run
    from mimflow_train.pretrained import judged_step, trained_model
    from mimflow_train.report.one_run import write_report

    extractor = get_extractor(extractor_name, device=device)
    model = trained_model(config, options.run, device)
    data = load_data(config)
    num_real = len(data.held_out.labels)
    count = options.num or num_real
    if "kid" in names:
        subset = min(protocol.kid_subset_size, count, num_real)
        protocol = dataclasses.replace(protocol, kid_subset_size=subset)
    folder = options.run / "eval" if options.run.is_dir() else options.run.with_suffix(".eval")
    require_network(extractor, protocol)
    numbers = {"samples": count, "real": num_real}
    sets = [ImageSet(folder / f"{name}.npz", "npz", n, "") for name, n in numbers.items()]
    require_enough(sets, protocol)
    say(f"{count} samples, {num_real} held-out images, guidance {config.guidance}")
    scores = score_run(
        model,
        config,
        data,
        folder,
        Judging(
            extractor=extractor,
            protocol=protocol,
            num=count,
            num_inverted=options.inversion,
            num_spectra=options.spectra,
            num_probe=options.probe,
            step=judged_step(options.run),
        ),
    )
    text = json.dumps(scores.to_dict(), indent=2, allow_nan=False)
    printed = str(options.json) == "-"
    if options.json is not None and not printed:
        options.json.write_text(text + "\n")
    sys.stdout.write((text if printed else scores.to_text()) + "\n")
    for remark in scores.samples.remarks:
        say(f"warning: {remark.message}")
    if options.run.is_dir():  # last: a page that cannot be written costs no scores
        say(f"{write_report(options.run)} shows these scores")
    return 0


def _check_numbers(options: EvalOptions) -> None:
    for name, least in (("num", 0), ("spectra", 0), ("probe", 0), ("inversion", 1)):
        if getattr(options, name) < least:
            raise ConfigError(f"Expected --{name} >= {least}; got {getattr(options, name)}.")
    if options.num == 1:
        raise ConfigError("Expected --num of 2 or more, since one image has no spread; got 1.")


def _config(options: EvalOptions) -> TrainConfig:
    """Return the run's configuration, for the images and guidance that it is judged with."""
    config = read_config(options.run)
    if options.guidance is not None:
        config = dataclasses.replace(config, guidance=options.guidance)
    if options.probe and len(config.data.class_names) == 1:
        raise ConfigError("Expected a run of several classes for --probe; got one. Leave it out.")
    if options.data is not None:
        return _on_other_images(config, options.data)
    if config.data.source != "emoji" and not Path(config.data.source).exists():
        raise ConfigError(
            f"Expected the run's images in {config.data.source}; they are not there. Say where "
            "they are with --data DIR."
        )
    return config


def _require_report(path: Path | None) -> None:
    """Raise if a file to be written would not be, or would replace something else than scores."""
    if path is None or str(path) == "-":
        return
    if not path.parent.is_dir():
        raise ConfigError(f"Expected --json in a folder that exists; got {path}. Make it first.")
    if not path.exists():
        return
    try:
        is_report = "inversion_error" in json.loads(path.read_text())
    except (OSError, ValueError, TypeError):
        is_report = False
    if not is_report:
        raise ConfigError(
            f"Expected --json to name a new file or earlier scores; {path} is neither. "
            "Name another."
        )


def _on_other_images(config: TrainConfig, source: str) -> TrainConfig:
    names: tuple[str, ...] = CLASS_NAMES
    fingerprint = ""
    if source != "emoji":  # those of mimflow-train, of which there is one version
        source = str(Path(source).resolve())
        layout = read_layout(Path(source), say)
        names, fingerprint = layout.class_names, layout.fingerprint
    if names != config.data.class_names:
        raise ConfigError(
            f"Expected the run's {len(config.data.class_names)} classes in {source}, under the "
            f"same names; got {len(names)}. Give images of these classes."
        )
    data = dataclasses.replace(config.data, source=source, fingerprint=fingerprint)
    return dataclasses.replace(config, data=data)


if __name__ == "__main__":
    main()
