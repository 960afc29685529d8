"""Weight files: where they are, their digest, and loading them without running code from them."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from genmetrics.errors import WeightsUnavailable

FOLDER_VARIABLE = "GENMETRICS_WEIGHTS"
OFFLINE_VARIABLES = ("GENMETRICS_OFFLINE", "HF_HUB_OFFLINE")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def weights_folder_file(
    names: Sequence[str], environment: Mapping[str, str] = os.environ
) -> Path | None:
    """Return the first of some files in the folder GENMETRICS_WEIGHTS, or None.

    Args:
        names: File names, the preferred first.
        environment: Variables to look in.
    """
    if FOLDER_VARIABLE not in environment:
        return None
    files = (Path(environment[FOLDER_VARIABLE], name) for name in names)
    return next((file for file in files if file.is_file()), None)


def is_offline(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether a variable forbids downloads.

    Example:
        >>> is_offline({"GENMETRICS_OFFLINE": "1"}), is_offline({"HF_HUB_OFFLINE": "0"})
        (True, False)
    """
    return any(
        environment.get(name, "").upper() not in ("", "0", "FALSE", "NO", "OFF")
        for name in OFFLINE_VARIABLES
    )


def hub_file(repository: str, names: Sequence[str], *, download: bool | None = None) -> Path:
    """Return a file of a repository of the Hugging Face hub, from its cache or downloaded.

    Args:
        repository: Its identifier.
        names: File names, the preferred first.
        download: Whether to fetch what the cache lacks; None for yes unless offline.

    Raises:
        WeightsUnavailable: If no file can be had.
    """
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise WeightsUnavailable(
            f"Expected huggingface_hub, which fetches {repository}; got {error}. "
            "Install genmetrics[timm]."
        ) from error
    cached_only = is_offline() if download is None else not download
    reasons = []
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, local_files_only=cached_only))
        except Exception as error:  # hub, network and file system raise unrelated types
            reasons.append(f"{name}: {type(error).__name__}")
    how = "found no cached file" if cached_only else "could not download"
    raise WeightsUnavailable(
        f"Expected weights in the hub's repository {repository}; {how} ({', '.join(reasons)})."
    )


def torch_hub_file(
    url: str,
    sha256: str,
    *,
    download: bool | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Path:
    """Return a file of torch's cache, fetched and checked if it is not there yet.

    Args:
        url: Its address, whose last part is its name.
        sha256: The first digits of its digest.
        download: Whether to fetch what the cache lacks; None for yes unless offline.
        environment: Variables that may forbid it.

    Raises:
        OSError: If it cannot be had, with the reason as part of a sentence.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if cached.is_file():
        return cached
    if is_offline(environment) if download is None else not download:
        raise OSError(f"found no file at {cached}, and downloads are switched off")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(cached), sha256, progress=False)
    except (OSError, RuntimeError) as error:  # no network, no space; a digest that differs
        raise OSError(f"the download failed ({error})") from error
    return cached


def find_weights(
    weights: Path | None, stems: Sequence[str], elsewhere: Callable[[], Path], what: str
) -> Path:
    """Return the weight file: the argument, else GENMETRICS_WEIGHTS's, else that of the library.

    Args:
        weights: A file, or None to search.
        stems: File names without suffix that the folder GENMETRICS_WEIGHTS may have.
        elsewhere: Returns the library's file or raises WeightsUnavailable.
        what: The network, for messages.

    Raises:
        WeightsUnavailable: If no file is found.
    """
    if weights is not None:
        if weights.is_file():
            return weights
        raise WeightsUnavailable(
            f"Expected the weights of {what} in {weights}; found no file. Check --weights."
        )
    found = weights_folder_file([stem + suffix for stem in stems for suffix in SUFFIXES])
    if found is not None:
        return found
    try:
        return elsewhere()
    except WeightsUnavailable as error:
        raise WeightsUnavailable(
            f"{error} To use {what}, pass --weights FILE or put {stems[0]}{SUFFIXES[0]} (or "
            f"{' '.join(SUFFIXES[1:])}) into the folder {FOLDER_VARIABLE}."
        ) from error


def sha256_of(file: Path) -> str:
    """Return the hex sha256 of a weight file.

    Raises:
        WeightsUnavailable: If the file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise WeightsUnavailable(
            f"Expected a readable weight file; got {error}. Check the path."
        ) from error


def load_state_dict(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a PyTorch or safetensors file, refusing anything that is not a tensor.

    Raises:
        WeightsUnavailable: If the file is not a plain state dict.
    """
    try:
        state = _read(file)
    except Exception as error:  # an unpickler fed with other bytes raises anything
        first_line = str(error).partition("\n")[0]
        raise WeightsUnavailable(
            f"Expected a PyTorch state dict in {file}; got {first_line!r}. Fetch the file again."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsUnavailable(
            f"Expected a dictionary of tensors in {file}; got {type(state).__name__}. "
            "Save the model's state_dict."
        )
    return state


def _read(file: Path) -> object:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)
