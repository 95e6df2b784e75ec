"""`qvla bench`: speed and memory, each figure a ratio of two things measured in one run.

Absolute times say as much about the machine as about the code. So every figure here compares two
ways of doing the same work, taken in turns on the same machine within minutes of each other.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from contextlib import redirect_stdout
from pathlib import Path

from qvla import records
from qvla.verbs.models import add_model_arguments, settings_of

SUITES = ("core",)

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--suite", choices=SUITES, default="core", help="core: the three panes, and batches"
    )
    parser.add_argument("--repeats", type=int, default=7, help="turns of each time (default 7)")
    parser.add_argument(
        "--memory-repeats", type=int, default=3, help="processes for each memory (default 3)"
    )
    parser.add_argument("--photos", type=int, default=8, help="photos to use (default 8)")
    parser.add_argument("--new-tokens", type=int, default=20, help="caption length (default 20)")
    parser.add_argument(
        "--stop",
        choices=("fixed", "natural"),
        default="fixed",
        help="fixed: every caption has --new-tokens tokens; natural: it may end before",
    )
    parser.add_argument("--data", type=Path, help="photos in the RISC layout (default: examples)")
    parser.add_argument(
        "--records", type=Path, default=records.MEASURED_HERE, help="where the record goes"
    )
    parser.add_argument("--json", action="store_true", help="print the record instead of the table")
    add_model_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Prints the table or the record, and keeps the record."""
    from qvla.bench import core

    settings = settings_of(options)
    output = sys.stdout
    with redirect_stdout(sys.stderr):
        plan = core.Plan(
            repeats=options.repeats,
            memory_repeats=options.memory_repeats,
            photos=options.photos,
            new_tokens=options.new_tokens,
            stop=options.stop,
            data=options.data or settings.examples,
        )
        figures, record = core.run(plan, settings)
    path = records.write(record, options.records)
    if options.json:
        print(json.dumps(record.model_dump(mode="json"), indent=2), file=output)
    else:
        print(core.table(figures, record), file=output)
    log.info("The record is %s.", path)
    return 0
