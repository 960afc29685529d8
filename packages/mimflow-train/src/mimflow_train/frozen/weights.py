"""Where the weights of a frozen network come from: a file, a folder, a download, or an error."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from mimflow_train.errors import WeightsError

__all__ = [
    "FOLDER_VARIABLE",
    "PretrainedFile",
    "find_weights",
    "hub_file",
    "loading",
    "read_tensors",
    "weights_status",
]

FOLDER_VARIABLE = "MIMFLOW_WEIGHTS"
_OFFLINE_VARIABLES = ("MIMFLOW_OFFLINE", "HF_HUB_OFFLINE")


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainedFile:
    """The published weights of one frozen network.

    Attributes:
        network: What messages call the network.
        name: File name in the folder MIMFLOW_WEIGHTS.
        url: Where the file is published.
        download: Fetches the file with its library and returns where it is.
        sha256: The first digits of its digest; empty if nobody published them.
        term: The loss weight that is 0 in a run without this network; empty if there is none.
    """

    network: str
    name: str
    url: str
    download: Callable[[], Path]
    sha256: str = ""
    term: str = ""


def find_weights(wanted: PretrainedFile, environment: Mapping[str, str] = os.environ) -> Path:
    """Return a weight file: the folder's, else a download if allowed.

    Downloads are allowed unless MIMFLOW_OFFLINE or HF_HUB_OFFLINE is on.

    Args:
        wanted: What to look for.
        environment: Variables to look in.

    Raises:
        WeightsError: If the file is nowhere or has another digest.
    """
    found = _in_folder(wanted, environment) or _downloaded(wanted, environment)
    try:
        with found.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest() if wanted.sha256 else ""
    except OSError as error:
        raise _unavailable(wanted, str(error)) from error
    if not digest.startswith(wanted.sha256):
        raise _unavailable(wanted, f"{found} has sha256 {digest}")
    return found


def weights_status(wanted: PretrainedFile, environment: Mapping[str, str] = os.environ) -> str:
    """Say where a weight file is or would come from, without fetching it.

    Args:
        wanted: What to look for.
        environment: Variables to look in.
    """
    found = _in_folder(wanted, environment)
    if found is not None:
        return f"in {found}"
    if _offline(environment):
        return f"missing: save {wanted.url} as {wanted.name} in the folder {FOLDER_VARIABLE}"
    return f"to be downloaded from {wanted.url}, unless it is in its library's cache"


def hub_file(url: str, sha256: str) -> Path:
    """Return a file of torch's download cache, fetched and checked if it is not there yet."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), sha256 or None, progress=False)
    return file


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or a PyTorch state dict, running no code of it."""
    if file.suffix == ".safetensors":
        return safetensors.torch.load_file(file)
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return state


@contextmanager
def loading(network: str, file: Path) -> Iterator[None]:
    """Turn whatever a library raises over a file of the wrong content into one sentence."""
    try:
        yield
    except Exception as error:  # a parser fed with other bytes raises anything
        first_line = str(error).partition("\n")[0]
        raise WeightsError(
            f"Expected the weights of {network} in {file}; got {first_line!r}. "
            "Fetch the file again."
        ) from error


def _in_folder(wanted: PretrainedFile, environment: Mapping[str, str]) -> Path | None:
    folder = environment.get(FOLDER_VARIABLE)
    file = Path(folder or ".") / wanted.name
    return file if folder and file.is_file() else None


def _downloaded(wanted: PretrainedFile, environment: Mapping[str, str]) -> Path:
    variable = _offline(environment)
    if variable:
        raise _unavailable(wanted, f"the file is not there, and {variable}={environment[variable]}")
    try:
        return wanted.download()
    except (OSError, RuntimeError) as error:  # no network; another digest
        raise _unavailable(wanted, f"the download failed: {error}") from error


def _offline(environment: Mapping[str, str]) -> str | None:
    """Return the variable that forbids downloads, by the rule of Hugging Face's hub."""
    off = ("", "0", "FALSE", "NO", "OFF")
    set_ = (each for each in _OFFLINE_VARIABLES if environment.get(each, "").upper() not in off)
    return next(set_, None)


def _unavailable(wanted: PretrainedFile, reason: str) -> WeightsError:
    digest = f"sha256 {wanted.sha256}..." if wanted.sha256 else "sha256 not published"
    without = f", or train without the network: --set {wanted.term}=0" if wanted.term else ""
    return WeightsError(
        f"Expected the weights of {wanted.network}, {wanted.name} ({digest}), in the folder "
        f"{FOLDER_VARIABLE}; {reason}. Save {wanted.url} there under that name{without}."
    )
