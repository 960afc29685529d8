"""Statistics on disk: our own ``.npz``, and the formats of the tools that people come from.

Nothing that could run code is ever unpickled: arrays are read with ``allow_pickle=False``, PyTorch
files with ``weights_only=True``.
"""

import codecs
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from genmetrics.errors import BadInput, UsageError
from genmetrics.features.stats import GaussianStats
from genmetrics.images.arrays import FEATURES_NOT_READ, is_of_features
from genmetrics.images.zip_members import open_npz
from genmetrics.whole_files import written_whole

SCHEMA = "genmetrics-stats/1"
_ROUNDING = 1e-6  # of the trace, as much as a float32 covariance of 2048 dimensions may be off
_SUMS = ("real_features_sum", "real_features_cov_sum", "real_features_num_samples")


def save_stats(path: str | Path, outputs: Mapping[str, GaussianStats]) -> None:
    """Write statistics of one or more outputs of a network to an ``.npz`` file.

    It holds ``OUTPUT/mean``, ``OUTPUT/cov`` and, if known, ``OUTPUT/n`` for each output, and
    ``genmetrics``, a JSON text with the ``meta`` of each. A reader sees the old file or the whole
    new one.

    Args:
        path: The file, ending in ``.npz``.
        outputs: Statistics by name of output, such as ``pool3`` and ``spatial``.

    Raises:
        UsageError: If the path has another ending or cannot be written.

    Example:
        >>> import tempfile
        >>> stats = GaussianStats(9, torch.zeros(2).double(), torch.eye(2).double(), {"split": "a"})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_stats(f"{folder}/x.npz", {"pool3": stats})
        ...     read = load_stats(f"{folder}/x.npz")
        >>> read.n, read.dim, read.meta
        (9, 2, {'split': 'a'})
    """
    path = Path(path)
    if path.suffix.lower() != ".npz":
        raise UsageError(f"Expected a path that ends in .npz; got {path}. Rename it.")
    meta = {name: dict(stats.meta) for name, stats in outputs.items()}
    arrays = {"genmetrics": np.array(json.dumps({"schema": SCHEMA, "outputs": meta}))}
    for name, stats in outputs.items():
        arrays[f"{name}/mean"], arrays[f"{name}/cov"] = stats.mean.numpy(), stats.cov.numpy()
        if stats.n is not None:
            arrays[f"{name}/n"] = np.array(stats.n)
    with written_whole(path) as draft, draft.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # mypy takes one for allow_pickle


def load_stats(path: str | Path, output: str = "pool3") -> GaussianStats:
    """Return the statistics of one output of a network; formats as in :func:`load_all_stats`.

    Args:
        path: The file.
        output: Which output: ``pool3`` for FID, ``spatial`` for sFID.

    Raises:
        BadInput: If the file is not one of statistics, or not of this output.
    """
    found = load_all_stats(path)
    if output not in found:
        raise BadInput(
            f"Expected statistics of the output {output} in {path}; got {', '.join(found)}. "
            "Build them with `genmetrics stats build`."
        )
    return found[output]


def load_all_stats(path: str | Path) -> dict[str, GaussianStats]:
    """Return all statistics in a file, by output of the network.

    Read are the ``.npz`` of :func:`save_stats`; ADM's references (``mu``, ``sigma`` are ``pool3``,
    ``mu_s``, ``sigma_s`` are ``spatial``); ``mu``, ``sigma`` of pytorch-fid, clean-fid and EDM, or
    in a ``.pt`` of torch-fidelity; and the sums in the state of a torchmetrics FID (``.pth``). Only
    the first and the last know their number of samples.

    Args:
        path: The file.

    Raises:
        BadInput: If it is missing, damaged, a plain pickle, or has no statistics; lists what it
            has.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"Expected a file of statistics; got {path}, which is none. Check the path.")
    suffix = path.suffix.lower()
    if suffix in (".pkl", ".pickle"):
        raise BadInput(
            f"Expected statistics without pickled code; got {path}, which would run what it says "
            "when loaded. Save its mu and sigma with np.savez."
        )
    if suffix not in (".npz", ".pt", ".pth"):
        raise BadInput(f"Expected statistics in .npz, .pt or .pth; got {path}. Convert the file.")
    try:
        return _read_npz(path) if suffix == ".npz" else _read_torch(path)
    except BadInput as error:
        named = str(path) in str(error)
        raise error if named else BadInput(f"{error} The file is {path}.") from error


def _read_npz(path: Path) -> dict[str, GaussianStats]:
    with open_npz(path) as archive:
        # arr_0 of ADM's references is 2 GB of images.
        arrays = {key: archive[key] for key in archive.files if not key.startswith("arr_")}
        return _from_arrays(path, arrays, archive.files)


def _from_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], keys: list[str]
) -> dict[str, GaussianStats]:
    if "genmetrics" in arrays:
        return _from_our_own(path, arrays)
    meta = {"format": "adm" if "mu_s" in arrays else "mu-sigma", "source": path.name}
    found = {
        output: _gaussian(path, arrays[mean], arrays[cov], None, meta)
        for output, mean, cov in (("pool3", "mu", "sigma"), ("spatial", "mu_s", "sigma_s"))
        if mean in arrays and cov in arrays
    }
    if not found and is_of_features(keys):
        raise BadInput(f"Expected statistics; got features in {path}. {FEATURES_NOT_READ}")
    if not found:
        raise BadInput(
            f"Expected mu and sigma in {path}; got {', '.join(keys) or 'no keys'}. "
            "Build statistics with `genmetrics stats build`."
        )
    return found


def _from_our_own(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, GaussianStats]:
    try:
        header = json.loads(str(arrays["genmetrics"]))
        if header["schema"] != SCHEMA:
            raise BadInput(
                f"Expected the schema {SCHEMA} in {path}; got {header['schema']}. "
                "Update genmetrics."
            )
        counts = {
            name: int(arrays[f"{name}/n"]) if f"{name}/n" in arrays else None
            for name in header["outputs"]
        }
        return {
            name: _gaussian(path, arrays[f"{name}/mean"], arrays[f"{name}/cov"], counts[name], meta)
            for name, meta in header["outputs"].items()
        }
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise BadInput(
            f"Expected whole genmetrics statistics in {path}; got {error!r}. Build them again."
        ) from error


def _read_torch(path: Path) -> dict[str, GaussianStats]:
    state = _load_without_code(path)
    meta = {"format": "mu-sigma", "source": path.name}
    if "mu" in state and "sigma" in state:
        mean, cov = (np.asarray(state[key]) for key in ("mu", "sigma"))
        return {"pool3": _gaussian(path, mean, cov, None, meta)}
    if not all(isinstance(state.get(key), Tensor) for key in _SUMS):
        keys = ", ".join(map(str, list(state)[:10])) or "no keys"
        raise BadInput(
            f"Expected mu and sigma, or {', '.join(_SUMS)}, in {path}; got {keys}. "
            "Save the state of a FID with its states persistent."
        )
    total, products, count = (state[key].to(torch.float64) for key in _SUMS)
    if count.numel() != 1 or count.item() < 2:
        raise BadInput(
            f"Expected sums of at least 2 samples in {path}; got {count.tolist()}. "
            "Update the metric with real images before its state is saved."
        )
    n = int(count.item())
    mean = total / n
    if mean.ndim == 1 and products.shape == 2 * mean.shape:  # else it is refused below
        products = (products - n * torch.outer(mean, mean)) / (n - 1)
    meta["format"] = "torchmetrics"
    return {"pool3": _gaussian(path, mean.numpy(), products.numpy(), n, meta)}


def _load_without_code(path: Path) -> dict[Any, Any]:
    """Unpickle tensors and, since torch-fidelity stores them, NumPy arrays; nothing else."""
    rebuild = np._core.multiarray._reconstruct  # type: ignore[attr-defined]  # it is there
    harmless: list[Any] = [rebuild, (rebuild, "numpy.core.multiarray._reconstruct")]
    harmless += [
        np.ndarray,
        np.dtype,
        np.dtypes.Float64DType,
        np.dtypes.Float32DType,
        codecs.encode,
    ]
    try:
        with torch.serialization.safe_globals(harmless):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        found = f"a call of {code[1]}" if code else str(error).partition("\n")[0] or "no pickle"
        raise BadInput(
            f"Expected arrays and no code in {path}; got {found}. Save mu and sigma with np.savez."
        ) from error
    if not isinstance(state, dict):
        raise BadInput(
            f"Expected a dictionary of arrays in {path}; got {type(state).__name__}. "
            "Save a dictionary with mu and sigma."
        )
    return state


def _gaussian(
    path: Path, mean: np.ndarray, cov: np.ndarray, n: int | None, meta: Mapping[str, str | int]
) -> GaussianStats:
    """Check what the formulas rely on, and no more: any float type is good."""
    if mean.ndim != 1 or cov.shape != 2 * mean.shape or {mean.dtype.kind, cov.dtype.kind} != {"f"}:
        raise BadInput(
            f"Expected a mean of d floats and a covariance of d x d in {path}; got {mean.dtype} "
            f"{mean.shape} and {cov.dtype} {cov.shape}. Build the statistics again."
        )
    mean, cov = mean.astype(np.float64), cov.astype(np.float64)
    stats = GaussianStats(n, torch.from_numpy(mean), torch.from_numpy(cov), meta)
    if not np.allclose(cov, cov.T, rtol=1e-4, atol=1e-6 * float(np.abs(cov).max(initial=0))):
        row, column = np.unravel_index(np.abs(cov - cov.T).argmax(), cov.shape)
        raise BadInput(
            f"Expected a symmetric covariance in {path}; got {cov[row, column]:g} at "
            f"({row}, {column}) and {cov[column, row]:g} at ({column}, {row}). "
            "Build the statistics again."
        )
    _require_positive(path, stats.cov)
    return stats


def _require_positive(path: Path, cov: Float64[Tensor, "d d"]) -> None:
    """Raise if an eigenvalue is negative by more than rounding."""
    tolerance = _ROUNDING * cov.trace()
    # A factorisation is 20 times cheaper than eigenvalues, and nearly always enough.
    if not torch.linalg.cholesky_ex(cov + tolerance * torch.eye(len(cov), dtype=cov.dtype)).info:
        return
    smallest = torch.linalg.eigvalsh(cov)[0]
    if smallest < -tolerance.abs():
        raise BadInput(
            f"Expected a covariance without negative eigenvalues in {path}; got {smallest:g}, with "
            f"a trace of {cov.trace():g}. Build the statistics again."
        )
