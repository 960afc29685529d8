"""The command ``genmetrics``: the result on stdout, progress and warnings on stderr.

Imports torch only once the arguments are known to be good and the images to be there.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from genmetrics.errors import GenmetricsError

COMMANDS = ("fid", "eval")  # modules of genmetrics.commands

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
        options.run(options, ["genmetrics", *(sys.argv[1:] if argv is None else argv)])
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
    names = ",".join(COMMANDS)
    commands = parser.add_subparsers(dest="command", required=True, metavar=f"{{{names}}}")
    for name in COMMANDS:
        module = import_module(f"genmetrics.commands.{name}")
        command = commands.add_parser(name, help=module.HELP, allow_abbrev=False)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser
