"""The command ``genmetrics``: the result on stdout, progress and warnings on stderr.

Imports torch only once the arguments are known to be good and the images to be there.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmetrics.errors import GenmetricsError, UsageError

if TYPE_CHECKING:
    from genmetrics.report import Report
    from genmetrics.sources import ImageSource

_EPILOG = """\
examples:
  genmetrics fid samples/ real/
  genmetrics eval samples.npz --ref real/ --extractor efflite0 --json -

Images: a folder (png jpg jpeg webp bmp, with sub-folders one level deep), or the uint8 array arr_0
of an .npz, (n, h, w, 3). FID needs the Inception weights of torch-fidelity (--weights, or
GENMETRICS_INCEPTION_WEIGHTS, or its cache). efflite0 needs no download; its score is called
fd_efflite0 and is not FID.

exit codes: 0 done, 2 usage, 3 bad images, 4 weights unavailable, 5 numerical failure
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: Arguments; None takes the process's own.
    """
    options = _parser().parse_args(argv)
    try:
        _run(options, ["genmetrics", *(sys.argv[1:] if argv is None else argv)])
    except GenmetricsError as error:
        sys.stderr.write(f"genmetrics: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("genmetrics: interrupted\n")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="genmetrics",
        description="Distances between sets of images, honest about the number of samples.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="{fid,eval}")
    shared = _shared_options()
    fid = commands.add_parser(
        "fid", parents=[shared], help="Frechet distance of two sets", allow_abbrev=False
    )
    fid.add_argument("samples", type=Path, metavar="A", help="images to judge")
    fid.add_argument("reference", type=Path, metavar="B", help="real images")
    judge = commands.add_parser(
        "eval", parents=[shared], help="scores of samples against real images", allow_abbrev=False
    )
    judge.add_argument("samples", type=Path, metavar="SAMPLES", help="images to judge")
    judge.add_argument(
        "--ref", dest="reference", type=Path, required=True, metavar="REF", help="real images"
    )
    judge.add_argument(
        "--metrics", choices=("fid",), default="fid", help="what to compute (default: fid)"
    )
    return parser


def _shared_options() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    add(
        "--extractor",
        choices=("inception", "efflite0"),
        default="inception",
        help="feature network (default: inception)",
    )
    add("--weights", type=Path, metavar="FILE", help="weight file of the feature network")
    add("--json", metavar="FILE", help="write a JSON report; - prints it in place of the table")
    add("--batch-size", type=_count, default=64, metavar="N", help="images per pass (default: 64)")
    add("--device", type=_device, default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--recursive", action="store_true", help="read sub-folders at any depth")
    add("--limit", type=_count, metavar="N", help="read only N images of each set, at random")
    add("--seed", type=_seed, default=0, metavar="S", help="seed of random subsets (default: 0)")
    return shared


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1; got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2^63; got {text!r}")
    return int(text)


def _device(text: str) -> str:
    kind, _, index = text.partition(":")
    if text not in ("auto", "cpu", "cuda") and not (kind == "cuda" and index.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected auto, cpu, cuda or cuda:N; got {text!r}")
    return text


def _run(options: argparse.Namespace, command: list[str]) -> None:
    started, created = time.monotonic(), datetime.now(UTC)
    if options.json not in (None, "-") and not Path(options.json).absolute().parent.is_dir():
        raise UsageError(
            f"Expected --json in an existing folder; got {options.json}. Make the folder first."
        )
    samples, reference = (_open(options, path) for path in (options.samples, options.reference))
    report = _evaluate(options, samples, reference)
    for remark in report.remarks:
        sys.stderr.write(f"warning: {remark.message}\n")
    seconds = round(time.monotonic() - started, 3)
    document = report.to_dict() | {
        "created": created.isoformat(timespec="seconds"),
        "command": command,
        "timings": {"total_s": seconds},
    }
    _write(document, report.to_text(), options.json)


def _open(options: argparse.Namespace, path: Path) -> "ImageSource":
    from numpy.random import default_rng

    from genmetrics.sources import open_images

    source = open_images(path, recursive=options.recursive)
    if options.limit is None or options.limit >= len(source):
        return source
    chosen = default_rng(options.seed).choice(len(source), options.limit, replace=False)
    return source.select(sorted(chosen.tolist()))


def _evaluate(
    options: argparse.Namespace, samples: "ImageSource", reference: "ImageSource"
) -> "Report":
    import torch

    from genmetrics.evaluation import evaluate
    from genmetrics.extractors import get_extractor

    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    devices = torch.cuda.device_count()
    if device.startswith("cuda") and (torch.device(device).index or 0) >= devices:
        raise UsageError(
            f"Expected one of the CUDA devices, of which there are {devices}; "
            f"got --device {device}. Choose --device cpu."
        )
    extractor = get_extractor(options.extractor, weights=options.weights, device=device)
    with _bar(len(samples) + len(reference)) as progress:
        return evaluate(
            samples,
            reference,
            extractor=extractor,
            batch_size=options.batch_size,
            seed=options.seed,
            progress=progress.update,
        )


@contextmanager
def _bar(total: int) -> Iterator[Any]:
    from tqdm import tqdm

    with tqdm(total=total, unit="img", file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        yield bar


def _write(document: dict[str, Any], table: str, target: str | None) -> None:
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    if target is not None:
        try:
            Path(target).write_text(text)
        except OSError as error:
            raise UsageError(f"Expected a writable --json file; got {error}.") from error
    sys.stdout.write(table + "\n")
