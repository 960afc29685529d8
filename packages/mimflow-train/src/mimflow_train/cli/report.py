"""``mimflow-report``: writes a run's ``report.html`` anew, or several runs side by side."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mimflow_train.cli.command import parse, run
from mimflow_train.errors import ConfigError

PROGRAM = "mimflow-report"


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write one page about a run, finished or not; or about several, side by side.

    Examples: `mimflow-report runs/tiny-emoji` writes its report.html;
    `mimflow-report runs/a runs/b --out ab.html` compares scores and configurations.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders of mimflow-train."""
    out: Path | None = None
    """The page about several runs; compare.html in this folder if not given."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    options = parse(ReportOptions, arguments, PROGRAM)
    sys.exit(run(lambda: _main(options), PROGRAM))


def _main(options: ReportOptions) -> int:
    if not options.runs:
        raise ConfigError("Expected at least one run folder; got none. Name one.")
    for each in options.runs:
        if each.is_file():
            raise ConfigError(
                f"Expected run folders, which have curves and pictures; got the file {each}. "
                "Name the folder of its run."
            )
    if len(options.runs) == 1 and options.out is not None:
        raise ConfigError(
            f"Expected several runs with --out; got {options.runs[0]} alone, whose page is its "
            "report.html. Leave --out away, or name another run."
        )

    from mimflow_train.report.compare import write_comparison
    from mimflow_train.report.one_run import write_report

    if len(options.runs) == 1:
        path = write_report(options.runs[0])
    else:
        path = write_comparison(options.runs, options.out or Path("compare.html"))
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    main()
