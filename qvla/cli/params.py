"""`qvla params`: what a model consists of, from its configuration alone."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from typing import Any

from qvla.cli.output import as_json
from qvla.settings import load_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", help="hub id or folder; google/paligemma-3b-pt-224 is built in (no network)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    group = parser.add_argument_group("adapter")
    group.add_argument(
        "--reduction-factor", type=int, metavar="N", help="hidden / width (default 16)"
    )
    group.add_argument(
        "--layers", type=int, nargs="+", metavar="N", help="decoder layers (default: all)"
    )
    group.add_argument("--sites", nargs="+", choices=("attention", "mlp"), metavar="SITE")
    group.add_argument(
        "--train-norms",
        action="store_true",
        default=None,
        help="count the norm after each adapter as trained",
    )


def run(options: argparse.Namespace) -> int:
    """Prints the report of `qvla.models.params`."""
    output = sys.stdout
    with redirect_stdout(sys.stderr):
        from qvla.models.params import report

        names = ("reduction_factor", "layers", "sites", "train_norms")
        own = {name: getattr(options, name) for name in names}
        given = {name: value for name, value in own.items() if value is not None}
        counts = report(options.model or load_settings().model, **given)
    print(as_json(counts) if options.json else _in_words(counts), file=output)
    return 0


def _in_words(counts: dict[str, Any], indent: str = "") -> str:
    lines = []
    for name, value in counts.items():
        label = indent + name.replace("_", " ")
        if isinstance(value, dict):
            lines += [label, _in_words(value, indent + "  ")]
        else:
            shown = f"{value:,}" if isinstance(value, (int, float)) else str(value)
            lines.append(f"{label:28}{shown:>28}")
    return "\n".join(lines)
