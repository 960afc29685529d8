"""A network as a folder of two files: ``config.json`` and ``model.safetensors``."""

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CONFIG, WEIGHTS = "config.json", "model.safetensors"
Network = TypeVar("Network", bound="Pretrained")


class Pretrained(nn.Module):
    """A network that its ``config`` alone describes, so that two files are all of it.

    A subclass takes one argument, the config, and names its class as ``config_type``. Of what is
    derived from it in turn, all weights are saved, and not compared with the config.
    """

    config: Any
    config_type: ClassVar[type[Any]]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` into a folder, made if absent.

        Both files are written in full before either takes the place of an earlier one. Compiled
        parts are saved as what they compile. Of several processes let one save.

        Args:
            folder: Where to.

        Raises:
            FileExistsError: If a file is in the folder's place.
            OSError, SafetensorError: If the disk does not take it; earlier files stay.
            ValueError: If a weight is in shards, on the meta device, of another precision than the
                others, not finite, or not one that the config describes.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"Expected a folder; got the file {folder}. Give another name.")
        weights = {
            name.replace("_orig_mod.", ""): weight.detach().contiguous()
            for name, weight in self.state_dict().items()
        }
        if "config_type" in vars(type(self)):
            advice = "Remove parametrizations, or merge adapters, first."
            _check_names(weights, _without_memory(type(self), self.config), "the network", advice)
        _check_values(weights, self, "save")
        _write(folder, json.dumps(asdict(self.config), indent=2) + "\n", weights)

    @classmethod
    def from_pretrained(cls: type[Network], folder: str | Path) -> Network:
        """Read a network from the folder that :meth:`save_pretrained` wrote, on the CPU.

        Fields of the config that the file lacks take their defaults.

        Args:
            folder: Where from.

        Raises:
            FileNotFoundError: If one of the files is missing.
            ValueError: If a file is damaged, a field unknown, or the files do not belong together.
        """
        folder = Path(folder)
        values, weights = _read(folder)
        network: Network = _without_memory(
            cls, _config_of(cls.config_type, values, folder / CONFIG)
        )
        _check_names(weights, network, str(folder / WEIGHTS), "Use the two files of one network.")
        _check_values(weights, network, "load")
        network.load_state_dict(weights, assign=True)
        return network


def _write(folder: Path, config: str, weights: dict[str, Tensor]) -> None:
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


def _read(folder: Path) -> tuple[object, dict[str, Tensor]]:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"Expected {name} in {folder}; got no such file. "
                "Give the folder that save_pretrained wrote."
            )
    try:
        config = json.loads((folder / CONFIG).read_text())
    except ValueError as error:  # that of a text which is none, too
        raise ValueError(
            f"Expected JSON in {folder / CONFIG}; got {error}. Correct it, or copy it again."
        ) from error
    try:
        return config, load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(
            f"Expected whole weights in {folder / WEIGHTS}; got a damaged file ({error}). "
            "Copy it again."
        ) from error


def _config_of(kind: type[Any], values: object, path: Path) -> Any:
    if not isinstance(values, Mapping):
        raise ValueError(  # noqa: TRY004 - one error for a file that is wrong
            f"Expected the fields of {kind.__name__} in {path}; got {type(values).__name__}. "
            "Copy it again."
        )
    known = [field.name for field in fields(kind)]
    for name in values:
        if name not in known:
            close = get_close_matches(name, known, n=1, cutoff=0.75)
            raise ValueError(
                f"Expected fields of {kind.__name__} in {path}; got unknown field {name!r}"
                + (f" (did you mean {close[0]!r}?)." if close else ".")
                + " Give the folder of a network of this kind."
            )
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{error} It is said in {path}.") from error


def _without_memory(kind: type[Any], config: object) -> Any:
    with torch.device("meta"):
        return kind(config)


def _check_names(
    weights: Mapping[str, Tensor], network: nn.Module, source: str, advice: str
) -> None:
    """Refuse weights of another network than the config describes, naming the first difference."""
    expected = network.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        wanted, found = (
            tuple(each[name].shape) if name in each else "no such weight"
            for each in (expected, weights)
        )
        if wanted != found:
            raise ValueError(
                f"Expected {name} to be {wanted} by {CONFIG}; got {found} in {source}. {advice}"
            )


def _check_values(weights: Mapping[str, Tensor], network: nn.Module, verb: str) -> None:
    """Refuse weights without values, or in which a network cannot run, naming the first."""
    learned = {name.replace("_orig_mod.", "") for name, _ in network.named_parameters()}
    dtype = next(iter(weights.values())).dtype
    for name, weight in weights.items():
        is_sharded = hasattr(weight, "placements")  # as torch's DTensor has
        if is_sharded or weight.is_meta:
            got = "shards" if is_sharded else "no values, on the meta device,"
            raise ValueError(
                f"Expected whole weights to {verb}; got {got} in {name}. Gather them with torch's "
                "get_model_state_dict, or initialise them, in a network of its own."
            )
        is_number = weight.is_floating_point() or name in learned  # and no counter of a buffer
        if is_number and (weight.dtype != dtype or not dtype.is_floating_point):
            raise ValueError(
                f"Expected weights of one floating dtype to {verb}; got {weight.dtype} in {name} "
                f"beside {dtype}. Call the network's float() first."
            )
        if not weight.isfinite().all():
            raise ValueError(
                f"Expected finite weights to {verb}; got non-finite entries in {name}. "
                "Go back to a sound checkpoint."
            )
