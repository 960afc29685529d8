"""``genmetrics compare A.json B.json``: is the difference larger than the noise?"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from genmetrics.commands.file_kinds import require_report
from genmetrics.commands.output import add_json_option, document, write
from genmetrics.evaluation.compare import Difference, compare_reports, read_report, reference_doubts

HELP = "two reports side by side, with the error of their difference"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("a", type=Path, metavar="A.json", help="a report of genmetrics eval")
    parser.add_argument("b", type=Path, metavar="B.json", help="another one")
    add_json_option(parser)


def run(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Compare and print."""
    require_report(options.json, [options.a, options.b])
    a, b = read_report(options.a), read_report(options.b)
    differences = compare_reports(a, b)
    doubts = reference_doubts(a, b)
    for sentence in doubts:
        sys.stderr.write(f"warning: {sentence}\n")
    plain = {"differences": [asdict(each) for each in differences], "warnings": doubts}
    write(document(plain, command), _table(differences), options.json)


def _table(differences: list[Difference]) -> str:
    rows = [("score", "A", "B", "B - A", "+-", "N of A", "N of B", "verdict")]
    for each in differences:
        se = "" if each.se is None else f"{each.se:.4f}"
        a, b, gap = (f"{value:.4f}" for value in (each.a, each.b, each.b - each.a))
        verdict = f"{each.verdict}: {each.reason}"
        rows.append((each.name, a, b, gap, se, str(each.n_a), str(each.n_b), verdict))
    return "\n".join(
        f"{name:<20} {a:>11} {b:>11} {gap:>11} {se:>9} {n_a:>7} {n_b:>7}  {verdict}"
        for name, a, b, gap, se, n_a, n_b, verdict in rows
    )
