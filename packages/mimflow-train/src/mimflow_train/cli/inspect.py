"""``mimflow-inspect``: what a run holds, whether it is whole, and its weights as files."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from safetensors import safe_open

from mimflow_train.cli.command import parse, run
from mimflow_train.config import TrainConfig
from mimflow_train.config.file import read_config, read_metadata
from mimflow_train.errors import ConfigError, StorageError
from mimflow_train.storage.run_folder import told_of_init

PROGRAM = "mimflow-inspect"
_OTHER_FILES = (  # suffixes that name no folder
    *(".safetensor", ".bin", ".ckpt", ".gguf", ".h5", ".npz"),
    *(".onnx", ".pickle", ".pkl", ".pt", ".tar"),
)


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Show what a run folder holds; trains and draws nothing.

    Examples: `mimflow-inspect runs/tiny-emoji --verify`;
    `mimflow-inspect runs/tiny-emoji --export model.safetensors`;
    `mimflow-inspect runs/tiny-emoji --export networks`;
    `mimflow-inspect model.safetensors`.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of mimflow-train, or a .safetensors file: a milestone or an export."""
    verify: bool = False
    """Hold every file of every checkpoint against its checksum; exit code 6 if one is damaged."""
    export: Path | None = None
    """Write the newest weights that samples are made with, float32: to FILE.safetensors, with the
    configuration in its metadata; or to a new folder, a sub-folder each for encoder, flow and
    decoders, which mim_encoder, tarflow_prior and vit_decoder load without mimflow-train."""
    json: bool = False
    """Print JSON in place of the table."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    options = parse(InspectOptions, arguments, PROGRAM)
    sys.exit(run(lambda: _main(options), PROGRAM))


def _main(options: InspectOptions) -> int:
    config = read_config(options.run)
    if options.export is not None:
        _check_target(config, options.export)
    if options.run.suffix == ".safetensors":
        return _inspect_file(config, options)

    from mimflow_train.storage.checkpoint import damage, fingerprint
    from mimflow_train.storage.files import read_reports
    from mimflow_train.storage.run_folder import checkpoints, init_of, read_manifest, step_of

    rows: list[dict[str, Any]] = []
    for folder in checkpoints(options.run):
        manifest = read_manifest(folder)
        rows.append(
            {
                "step": step_of(folder.name),
                "phase": manifest.get("phase", "unknown"),
                "fingerprint": fingerprint(folder),
                "bytes": sum(path.stat().st_size for path in folder.iterdir()),
                "versions": manifest.get("versions", {}),
                "damage": damage(folder) if options.verify else None,
            }
        )
    report = {
        "run": str(options.run),
        "scale": config.scale,
        "data": config.data.source,
        "steps": config.steps,
        "all_steps": config.all_steps,
        "init": init_of(options.run),
        "checkpoints": rows,
        "verified": options.verify,
        "last_values": (read_reports(options.run) or [{}])[-1],
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n" if options.json else _table(report))
    damaged = [row for row in rows if row["damage"]]
    if damaged:
        advice = (
            "mimflow-train goes on from the newest that is whole."
            if len(damaged) < len(rows)
            else "Restore them from a copy, or move the folder away to start anew."
        )
        raise StorageError(
            f"Expected whole checkpoints in {options.run}; {len(damaged)} of {len(rows)} are "
            f"damaged. {advice}"
        )
    if options.export is not None:
        said = _export(config, options.run, options.export)
        (sys.stderr if options.json else sys.stdout).write(said)
    return 0


def _inspect_file(config: TrainConfig, options: InspectOptions) -> int:
    if options.verify or options.export is not None:
        raise ConfigError(
            f"Expected a run folder with --verify or --export; got the file {options.run}. "
            "Give the run, or leave them out."
        )
    said = read_metadata(options.run)
    with safe_open(options.run, framework="numpy") as file:
        numbers = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    report = {
        "file": str(options.run),
        "scale": config.scale,
        "data": config.data.source,
        "checkpoint": said.get("checkpoint", "unknown"),
        "weights": said.get("weights", "unknown"),
        "parameters": numbers,
    }
    sys.stdout.write(
        json.dumps(report, indent=2) + "\n"
        if options.json
        else f"{report['file']}: scale {config.scale} on {config.data.source}\n"
        f"  {report['weights']} weights of {report['checkpoint']}, {numbers:,} numbers\n"
    )
    return 0


def _table(report: dict[str, Any]) -> str:
    done = max((row["step"] for row in report["checkpoints"]), default=0)
    lines = [
        f"{report['run']}: scale {report['scale']} on {report['data']}",
        f"  {done:,} of {report['all_steps']:,} steps: {report['steps']:,} joint, "
        f"{report['all_steps'] - report['steps']:,} of the decoder",
    ]
    if report["init"]:
        lines.append(f"  {told_of_init(report['init'])}")
    for row in report["checkpoints"]:
        state = row["damage"] or ("whole" if report["verified"] else "not verified")
        torch_version = row["versions"].get("torch", "unknown")
        lines.append(
            f"  step {row['step']:>9,}  {row['phase']:<8} {row['bytes'] / 1e6:>10,.1f} MB  "
            f"{row['fingerprint']}  torch {torch_version}  {state}"
        )
    values = {key: each for key, each in report["last_values"].items() if key != "time"}
    if values:
        terms = "  ".join(
            f"{key} {'not finite' if value is None else f'{value:.4g}'}"
            for key, value in values.items()
        )
        lines.append(f"  last report  {terms}")
    return "\n".join(lines) + "\n"


def _check_target(config: TrainConfig, target: Path) -> None:
    if target.suffix == ".safetensors":
        return
    if target.suffix.lower().startswith(_OTHER_FILES):
        raise ConfigError(
            f"Expected --export FILE.safetensors, or a folder; got {target}. Rename it."
        )
    if config.model.convolutional is not None:
        raise ConfigError(
            "Expected a ViT encoder and decoder, which other packages load; this run's are "
            f"convolutional. Write --export {target}.safetensors."
        )
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ConfigError(
            f"Expected --export to name a folder that is empty or not there; {target} is neither. "
            "Give another name."
        )


def _export(config: TrainConfig, run_dir: Path, target: Path) -> str:
    """Write the newest weights, and say in a line what they are."""
    from mimflow_train.storage.checkpoint import export_weights, latest_checkpoint
    from mimflow_train.storage.networks import export_networks
    from mimflow_train.telemetry.console import say

    folder = latest_checkpoint(run_dir, say)
    if folder is None:
        raise StorageError(f"Expected a checkpoint in {run_dir}; there is none. Train it first.")
    export = export_weights if target.suffix == ".safetensors" else export_networks
    name = export(folder, config, target)
    return f"{name} weights of {folder.name} in {target}\n"


if __name__ == "__main__":
    main()
