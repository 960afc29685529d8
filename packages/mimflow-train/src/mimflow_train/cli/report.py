"""``mimflow-report``: writes a run's ``report.html`` anew."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mimflow_train.cli.command import parse, run

PROGRAM = "mimflow-report"


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write report.html of a run, finished or not: scores, curves, pictures, configuration."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of mimflow-train."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    options = parse(ReportOptions, arguments, PROGRAM)
    sys.exit(run(lambda: _main(options), PROGRAM))


def _main(options: ReportOptions) -> int:
    from mimflow_train.report import write_report

    sys.stdout.write(f"{write_report(options.run)}\n")
    return 0


if __name__ == "__main__":
    main()
