"""``genmetrics jacobian``: the ends of the spectrum of a flow's Jacobian at some latents."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmetrics.commands.arguments import (
    add_device_option,
    choose_device,
    count,
    random_rows,
    require_parent,
    seed,
)
from genmetrics.commands.arrays import read_array
from genmetrics.commands.file_kinds import require_report
from genmetrics.commands.output import add_json_option, document, progress_bar, write
from genmetrics.errors import BadInput, NumericalFailure, UsageError
from genmetrics.evaluation.protocols import SCHEMA
from genmetrics.factories import call_factory

if TYPE_CHECKING:
    import numpy as np
    import torch

    from genmetrics.jacobian.result import SpectrumResult
    from genmetrics.plots import Extremes

HELP = "extreme singular values and condition number of a flow"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add(
        "--model",
        required=True,
        metavar="PKG.MOD:FACTORY",
        help="function without arguments that returns the flow: a callable, or an object with "
        "flow and, if it has them, inverse and blocks",
    )
    add("--latents", type=Path, required=True, metavar="Z.npz", help="where to look, one per row")
    add("--key", metavar="K", help="array of latents (default: z, or the only one)")
    add("--samples", type=count, default=64, metavar="N", help="latents, at random (default: 64)")
    add("--seed", type=seed, default=0, metavar="S", help="seed of all choices (default: 0)")
    _add_numerics(parser)
    add_json_option(parser)
    add("--plot", type=Path, metavar="FILE", help="draw histograms: png, pdf, svg")
    add(
        "--beside",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.json",
        help="draw an earlier --json report in the same picture; may be repeated",
    )
    add("--strict", action="store_true", help="exit with 5 unless every sample converged")


def _add_numerics(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--method",
        choices=("auto", "exact", "gkl", "power"),
        default="auto",
        help="of sigma_max; power is the paper's (default: auto, exact up to 512 dimensions unless "
        "--smin says how, else gkl)",
    )
    add(
        "--smin",
        choices=("auto", "inverse", "triangular", "cg"),
        default="auto",
        help="of sigma_min; cg is the paper's (default: auto, what the model allows)",
    )
    add("--delta", type=float, default=1e-6, help="shift of cg (default: 1e-6)")
    add("--tol", type=float, default=1e-3, help="relative residual when done (default: 1e-3)")
    add(
        "--max-products",
        type=count,
        default=2000,
        metavar="N",
        help="passes through the flow to spend on each end (default: 2000; exact takes one per "
        "dimension)",
    )
    add("--dtype", choices=("float64", "float32"), default="float64", help="(default: float64)")
    add(
        "--jvp",
        choices=("forward", "differences"),
        default="forward",
        help="forward-mode AD or central differences (default: forward)",
    )
    add("--batch-size", type=count, default=16, metavar="N", help="latents together (default: 16)")
    add_device_option(parser)


def run(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Estimate, print, and draw."""
    require_report(options.json, options.beside)
    if options.plot is not None:
        require_parent(options.plot, "--plot")
    elif options.beside:
        raise UsageError("Expected --plot with --beside; got none. Name the picture to draw.")
    earlier = _read_reports(options)
    latents = read_array(options.latents, options.key, preferred=("z", "latents"))
    rows = random_rows(len(latents), options.samples, options.seed)
    latents = latents if rows is None else latents[rows]
    result = _estimate(options, latents)
    open_ends = len(latents) - int(result.converged.sum())
    if open_ends:
        sys.stderr.write(
            f"warning: {open_ends} of {len(latents)} samples are not certified (no convergence, or "
            "kappa beyond the precision): sigma_max and kappa may be larger, sigma_min smaller.\n"
        )
    report = {
        "schema": SCHEMA,
        "model": options.model,
        "latents": str(options.latents),
        "jacobian": result.to_dict(),
    }
    write(document(report, command), result.to_text(), options.json)
    if options.plot is not None:
        _draw(options, earlier, result)
    if options.strict and open_ends:
        raise NumericalFailure(
            f"Expected {len(latents)} certified samples; got {len(latents) - open_ends}. Raise "
            "--max-products, or give the model blocks or an inverse."
        )


def _estimate(options: argparse.Namespace, latents: "np.ndarray") -> "SpectrumResult":
    import torch

    from genmetrics.jacobian.result import SpectrumResult
    from genmetrics.jacobian.spectrum import jacobian_spectrum
    from genmetrics.plots import pyplot

    if options.plot is not None:
        pyplot()  # before the work, since it may be missing
    target = torch.device(choose_device(options.device))
    dtype = getattr(torch, options.dtype)
    model = call_factory(options.model, told_as="--model", wanted="a flow")
    flow, inverse, blocks = _parts(model, target, dtype)
    results = []
    with progress_bar(len(latents), "latent") as bar:
        for batch in torch.from_numpy(latents).split(options.batch_size):
            result = jacobian_spectrum(
                flow,
                batch.to(target, dtype),
                inverse=inverse,
                blocks=blocks,
                method=options.method,
                smin=options.smin,
                delta=options.delta,
                tol=options.tol,
                max_products=options.max_products,
                dtype=dtype,
                seed=options.seed,
                jvp=options.jvp,
            )
            results.append(result)
            bar.update(len(batch))
    return SpectrumResult.concatenate(results)


def _parts(model: Any, device: "torch.device", dtype: "torch.dtype") -> tuple[Any, Any, Any]:
    """Return flow, inverse and blocks of what the factory returned, moved to where they run."""
    from torch import nn

    from genmetrics.jacobian.triangular import FlowBlock

    flow = getattr(model, "flow", model)
    if not callable(flow):
        raise UsageError(
            f"Expected the factory to return a flow; got {type(model).__name__}. "
            "Return a callable, or an object with the attribute flow."
        )
    for module in (model, flow):
        if isinstance(module, nn.Module):
            module.to(device, dtype)
    if flow is model:  # a bare flow: its attributes have other meanings than ours
        return flow, None, None
    blocks = getattr(model, "blocks", None)
    blocks = None if blocks is None else list(blocks)
    strangers = [type(block).__name__ for block in blocks or () if not isinstance(block, FlowBlock)]
    if strangers:
        raise UsageError(
            f"Expected blocks with __call__, log_scale, permute and unpermute; got {strangers[0]}. "
            "Wrap them, as genmetrics.jacobian.triangular.FlowBlock says."
        )
    return flow, getattr(model, "inverse", None), blocks


def _read_reports(options: argparse.Namespace) -> "dict[str, Extremes]":
    """Return earlier reports by file name, or by folder and file name where that is not enough."""
    counts = Counter([_own_name(options), *(path.stem for path in options.beside)])
    names = [
        path.stem if counts[path.stem] == 1 else f"{path.resolve().parent.name}/{path.stem}"
        for path in options.beside
    ]
    if len(set(names)) < len(names):
        name = Counter(names).most_common(1)[0][0]
        raise UsageError(
            f"Expected --beside reports of different names; got {name} more than once. Rename a "
            "file or its folder, or draw each report once."
        )
    return {name: _read_report(path) for name, path in zip(names, options.beside, strict=True)}


def _own_name(options: argparse.Namespace) -> str:
    """Return what the picture calls the model of this run."""
    return str(options.model.partition(":")[2])


def _read_report(path: Path) -> "Extremes":
    import json

    import torch

    from genmetrics.plots import Extremes

    names = ("sigma_max", "sigma_min", "log10_kappa")
    try:
        samples = json.loads(path.read_text())["jacobian"]["samples"]
        columns = [[torch.nan if s[k] is None else float(s[k]) for s in samples] for k in names]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"Expected a report of genmetrics jacobian --json; got '{error}' in {path}. "
            "Make it again."
        ) from error
    return Extremes(*(torch.tensor(column, dtype=torch.float64) for column in columns))


def _draw(
    options: argparse.Namespace, earlier: "dict[str, Extremes]", result: "SpectrumResult"
) -> None:
    from genmetrics.plots import plot_spectra

    plot_spectra({**earlier, _own_name(options): result}, options.plot)
