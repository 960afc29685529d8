"""``genmetrics features``: the features of a set of images, in a file."""

import argparse
import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmetrics.commands.arguments import (
    add_feature_options,
    choose_device,
    extraction,
)
from genmetrics.commands.file_kinds import require_report, require_target
from genmetrics.commands.output import add_json_option, document, progress_bar, write
from genmetrics.commands.reading import add_source_options, open_all, warn
from genmetrics.whole_files import written_whole

if TYPE_CHECKING:
    from genmetrics.images.sources import ImageSource
    from genmetrics.networks.extractors import Extractor

HELP = "features of images, in an .npz file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("source", type=Path, metavar="SRC", help="images")
    parser.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help="an .npz file: an array per output of the network, ids, labels if known, meta (JSON)",
    )
    add_feature_options(parser)
    add_source_options(parser)
    add_json_option(parser)


def run(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Extract and write."""
    require_target(options.out, "OUT", "features", [options.source])
    require_report(options.json)
    source = open_all(options, options.source)
    device = choose_device(options.device)

    from genmetrics.features.extraction import extract
    from genmetrics.networks.extractors import get_extractor

    extractor = get_extractor(options.extractor, weights=options.weights, device=device)
    # Before the images are read: one that changes meanwhile must not pass for the new content.
    meta = _meta(source, extractor)
    with progress_bar(len(source)) as bar:
        features = extract(source, extractor, progress=bar.update, **extraction(options))
    warn(source)
    arrays = {name: rows.numpy() for name, rows in features.items()}
    _save(options.out, arrays | _who(source), meta)
    lines = [f"{name:<13} {len(rows)} x {rows.shape[1]}" for name, rows in arrays.items()]
    result = {**meta, "path": str(options.out)}
    write(
        document(result, command), "\n".join([*lines, f"{'file':<13} {options.out}"]), options.json
    )


def _meta(source: "ImageSource", extractor: "Extractor") -> dict[str, Any]:
    """Return what the features depend on, as plain values."""
    from genmetrics.images.sources import class_names

    return {
        "schema": "genmetrics.features/1",
        "genmetrics_version": version("genmetrics"),
        "source": {
            "path": str(source.path),
            "kind": source.kind,
            "n": len(source),
            "fingerprint": source.fingerprint(),
            "labels": source.labels is not None,
            "classes": {str(label): name for label, name in class_names(source).items()},
        },
        "extractor": {
            "name": extractor.name,
            "weights_sha256": extractor.weights_sha256,
            "preprocess_id": extractor.preprocess_id,
            "outputs": dict(extractor.outputs),
            "main_output": extractor.main_output,
        },
    }


def _who(source: "ImageSource") -> dict[str, Any]:
    """Return the images' file names, or their places where they have none, and their classes."""
    import numpy as np

    names = getattr(source, "names", None)
    ids = [str(index) for index in getattr(source, "indices", range(len(source)))]
    found = {"ids": np.array(names if names is not None else ids)}
    return found if source.labels is None else found | {"labels": np.asarray(source.labels)}


def _save(path: Path, arrays: dict[str, Any], meta: dict[str, Any]) -> None:
    import numpy as np

    with written_whole(path) as draft, draft.open("wb") as stream:
        np.savez(stream, **arrays, meta=np.array(json.dumps(meta)))
        stream.flush()
        os.fsync(stream.fileno())
