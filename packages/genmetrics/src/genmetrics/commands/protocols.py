"""``genmetrics protocols``: the constants of every protocol."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from genmetrics.commands.file_kinds import require_report
from genmetrics.commands.output import add_json_option, document, write
from genmetrics.evaluation.protocols import METRICS, PROTOCOLS

HELP = "the constants of every protocol"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_json_option(parser)


def run(options: argparse.Namespace, command: Sequence[str]) -> None:
    """Print the protocols and what the metrics are."""
    require_report(options.json)
    plain = {name: asdict(protocol) for name, protocol in PROTOCOLS.items()}
    lines = []
    for name, fields in plain.items():
        lines += [name, *(f"  {key:<16} {_shown(value)}" for key, value in fields.items()), ""]
    lines += ["metrics", *(f"  {name:<16} {text}" for name, text in METRICS.items())]
    write(
        document({"protocols": plain, "metrics": dict(METRICS)}, command),
        "\n".join(lines),
        options.json,
    )


def _shown(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
