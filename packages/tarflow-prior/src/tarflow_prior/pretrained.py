"""A flow as a folder of two files: ``config.json`` and ``model.safetensors``."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import tarflow_prior
from tarflow_prior.checks import check_whole
from tarflow_prior.config import TarFlowConfig

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_pretrained(flow: "tarflow_prior.TarFlow", folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` into a folder, made if absent.

    Both files are written in full before either takes the place of an earlier one. Compiled parts
    are saved as what they compile. What a subclass adds is saved too, and not compared. Of several
    processes let one save.

    Args:
        flow: The flow.
        folder: Where to.

    Raises:
        FileExistsError: If a file is in the folder's place.
        OSError, SafetensorError: If the disk does not take it; earlier files stay.
        RuntimeError: If the weights are sharded.
        ValueError: If a weight is not finite, in a dtype that no flow runs in, or not one that the
            config describes.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"Expected a folder; got the file {folder}. Give another name.")
    check_whole([flow], "Gather them with torch's get_model_state_dict, and load a whole flow.")
    weights = {
        name.replace("_orig_mod.", ""): weight.detach().contiguous()
        for name, weight in flow.state_dict().items()
    }
    if type(flow) is tarflow_prior.TarFlow:
        plain = _without_memory(tarflow_prior.TarFlow, flow.config)
        advice = (
            "Call torch.nn.utils.parametrize.remove_parametrizations, or merge adapters, first."
        )
        _check_names(weights, plain, "the flow", advice)
    _check_dtype(weights, "the flow", "Call flow.float() first.")
    check_finite(weights, "save")
    _write(folder, json.dumps(flow.config.to_dict(), indent=2) + "\n", weights)


def load(kind: type["tarflow_prior.TarFlow"], folder: Path) -> "tarflow_prior.TarFlow":
    """Read what :func:`save_pretrained` wrote; see :meth:`TarFlow.from_pretrained`."""
    config, weights = _read(folder)
    flow = _without_memory(kind, config)
    advice = f"Folder: {folder}. Use the two files of one flow."
    _check_names(weights, flow, WEIGHTS, advice)
    both = "Save all weights in float32, or all in float64."
    _check_dtype(weights, WEIGHTS, f"Folder: {folder}. {both}")
    flow.load_state_dict(weights, assign=True)
    return flow.requires_grad_()


def _write(folder: Path, config: str, weights: dict[str, torch.Tensor]) -> None:
    """Write both files in full, then let them take the place of earlier ones."""
    draft, earlier = folder / ".draft", folder / ".draft" / "earlier"
    shutil.rmtree(draft, ignore_errors=True)  # of a save that was killed
    draft.mkdir(parents=True)
    try:
        (draft / CONFIG).write_text(config)
        save_file(weights, draft / WEIGHTS)
        with suppress(OSError):  # a drive may have no rights; safetensors lets only the owner read
            (draft / WEIGHTS).chmod((draft / CONFIG).stat().st_mode)
        if (folder / CONFIG).exists():  # not to be left beside other weights by a kill
            (folder / CONFIG).replace(earlier)
        try:
            (draft / WEIGHTS).replace(folder / WEIGHTS)
        except OSError:
            if earlier.exists():
                earlier.replace(folder / CONFIG)
            raise
        (draft / CONFIG).replace(folder / CONFIG)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _read(folder: Path) -> tuple[TarFlowConfig, dict[str, torch.Tensor]]:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"Expected {name} in {folder}; got no such file. "
                "Give the folder that save_pretrained wrote."
            )
    try:
        values = json.loads((folder / CONFIG).read_text())
        weights = load_file(folder / WEIGHTS)
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise ValueError(
            f"Expected a sound flow in {folder}; got a damaged file ({error}). Copy it again."
        ) from error
    if not isinstance(values, dict):
        raise ValueError(  # noqa: TRY004 - one error for a file that is wrong
            f"Expected the fields of a config in {folder / CONFIG}; got {type(values).__name__}. "
            "Copy it again."
        )
    check_finite(weights, "load")
    return TarFlowConfig.from_dict(values), weights


def _without_memory(
    kind: type["tarflow_prior.TarFlow"], config: TarFlowConfig
) -> "tarflow_prior.TarFlow":
    with torch.device("meta"):
        return kind(config)


def _check_names(
    weights: dict[str, torch.Tensor], flow: "tarflow_prior.TarFlow", source: str, advice: str
) -> None:
    """Refuse weights of another flow than the config describes, naming the first difference."""
    expected = flow.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        wanted = tuple(expected[name].shape) if name in expected else "no such weight"
        found = tuple(weights[name].shape) if name in weights else "no such weight"
        if wanted != found:
            raise ValueError(
                f"Expected {name} to be {wanted} by {CONFIG}; got {found} in {source}. {advice}"
            )


def _check_dtype(weights: dict[str, torch.Tensor], source: str, advice: str) -> None:
    """Refuse weights in which a flow cannot run, naming the first that is different."""
    dtypes = {name: weight.dtype for name, weight in sorted(weights.items())}
    first = next(iter(dtypes.values()))
    wanted = first if first in (torch.float32, torch.float64) else torch.float32
    for name, dtype in dtypes.items():
        if dtype != wanted:
            raise ValueError(f"Expected {name} in {wanted}; got {dtype} in {source}. {advice}")


def check_finite(weights: dict[str, torch.Tensor], verb: str) -> None:
    """Refuse weights that are not finite, naming the first.

    Args:
        weights: The weights by name.
        verb: What is done with them, to save or to load.

    Raises:
        ValueError: If one is not finite.
    """
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise ValueError(
                f"Expected finite weights to {verb}; got non-finite entries in {name}. "
                "Go back to a sound checkpoint."
            )
