"""``genmetrics compare A.json B.json``: is the difference larger than the noise?"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from genmetrics.commands.output import document, write
from genmetrics.compare import compare_reports, read_report

HELP = "two reports side by side, with the error of their difference"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("a", type=Path, metavar="A.json", help="a report of genmetrics eval")
    parser.add_argument("b", type=Path, metavar="B.json", help="another one")
    parser.add_argument("--json", metavar="FILE", help="write JSON; - prints it instead")


def run(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Compare and print."""
    differences = compare_reports(read_report(options.a), read_report(options.b))
    rows = [("score", "A", "B", "B - A", "+-", "verdict")]
    for each in differences:
        se = "" if each.se is None else f"{each.se:.4f}"
        a, b, gap = (f"{value:.4f}" for value in (each.a, each.b, each.b - each.a))
        rows.append((each.name, a, b, gap, se, each.verdict))
    table = "\n".join(
        f"{name:<20} {a:>12} {b:>12} {gap:>12} {se:>10}  {verdict}"
        for name, a, b, gap, se, verdict in rows
    )
    plain = [asdict(each) | {"verdict": each.verdict} for each in differences]
    write(document({"differences": plain}, command), table, options.json)
