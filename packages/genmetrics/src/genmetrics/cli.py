"""The command ``genmetrics``: the result on stdout, progress and warnings on stderr.

Imports torch only once the arguments are known to be good and the images to be there.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from genmetrics.commands.output import logs_on_stderr
from genmetrics.errors import GenmetricsError, UsageError, did_you_mean, require_no_empty

# Modules of genmetrics.commands.
COMMANDS = (
    "eval",
    "fid",
    "recon",
    "compare",
    "stats",
    "features",
    "probe",
    "jacobian",
    "umap",
    "pack",
    "prepare",
    "protocols",
    "doctor",
)

_EPILOG = """\
examples:
  genmetrics eval samples.npz --ref real/ --extractor efflite0
  genmetrics eval samples.npz --ref VIRTUAL_imagenet256_labeled.npz --json report.json
  genmetrics compare a.json b.json

Images: a folder (with sub-folders one level deep), a zip of one, or the uint8 array arr_0 of an
.npz. FID needs the Inception weights of torch-fidelity: `genmetrics doctor` says where they go.
efflite0 needs no download; its scores carry its name and are not FID.

exit codes: 0 done, 2 usage, 3 bad images, 4 weights unavailable, 5 numerical failure,
6 done, but images that cannot be read were left out (--on-bad-image skip)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: Arguments; None takes the process's own.
    """
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # of `genmetrics ... | head`
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):  # which Python flushes once more as it ends
            os.dup2(nowhere, stream.fileno())
        return 141


def _run(words: list[str]) -> int:
    parser = _parser()
    try:
        require_no_empty(words)
    except UsageError as error:
        parser.error(str(error))
    options, unknown = parser.parse_known_args(_with_values_joined(words))
    if unknown:
        options.parser.error(_unrecognized(unknown, options.parser))
    try:
        with logs_on_stderr():
            options.run(options, ["genmetrics", *words])
    except GenmetricsError as error:
        sys.stderr.write(f"genmetrics: {error}\n")
        return error.exit_code
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        told = ". ".join(str(error).split(". ")[:2]).rstrip(".")
        sys.stderr.write(
            f"genmetrics: Expected room for a batch on the device; got '{told}'. "
            "Give a smaller --batch-size (of probe it is part of the recipe), or --device cpu.\n"
        )
        return UsageError.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("genmetrics: interrupted\n")
        return 130
    exit_code: int = options.exit_code
    return exit_code


def _unrecognized(words: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """Name what is no argument of a command, and the option that is nearest to the first."""
    names = re.findall(r"--[a-z-]+", parser.format_usage())
    return f"unrecognized arguments: {' '.join(words)}.{did_you_mean(words[0], names)}"


def _with_values_joined(words: Sequence[str]) -> list[str]:
    """Write ``--float-range=-1,1`` in one word, since argparse takes ``-1,1`` for an option."""
    joined = list(words)
    for place in reversed([i for i, word in enumerate(words[:-1]) if word == "--float-range"]):
        joined[place : place + 2] = [f"{joined[place]}={joined[place + 1]}"]
    return joined


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="genmetrics",
        description="Metrics of generated images, honest about the number of samples.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    shown = f"%(prog)s {version('genmetrics')}"
    parser.add_argument("--version", action="version", version=shown)
    names = ",".join(COMMANDS)
    commands = parser.add_subparsers(dest="command", required=True, metavar=f"{{{names}}}")
    for name in COMMANDS:
        module = import_module(f"genmetrics.commands.{name}")
        command = commands.add_parser(name, help=module.HELP, allow_abbrev=False)
        module.add_arguments(command)
        command.set_defaults(run=module.run, exit_code=0, parser=command)
    return parser
