"""Weight files: their digest, and loading them without running code from them."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from genmetrics.errors import WeightsUnavailable


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
    """Return the tensors of a PyTorch weight file, refusing anything that is not a tensor.

    Raises:
        WeightsUnavailable: If the file is not a plain state dict.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
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
