"""`qvla bench`: speed and memory, measured on this machine and kept as records."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from contextlib import ExitStack, redirect_stdout
from importlib import import_module
from pathlib import Path

from qvla.bench.suites import SUITES
from qvla.captioning.options import add_model_arguments, settings_of
from qvla.cli.output import as_json
from qvla.records import store as records

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--suite",
        choices=SUITES,
        default="core",
        help="; ".join(f"{name}: {suite.summary}" for name, suite in SUITES.items()),
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
        help="core: fixed: every caption has --new-tokens tokens; natural: it may end before",
    )
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=(1, 8, 32), help="latency (default 1 8 32)"
    )
    parser.add_argument(
        "--train-batch", type=int, default=4, help="training: photos a step (default 4)"
    )
    parser.add_argument("--train-steps", type=int, default=20, help="training (default 20)")
    parser.add_argument(
        "--variant", help="some contenders, separated by commas (default: all that have weights)"
    )
    parser.add_argument(
        "--parts",
        help="memory, report: some of loading, captioning and training; engine: of token, clients, "
        "panes, evaluation and graphs; separated by commas (default: all)",
    )
    parser.add_argument("--clients", type=int, default=64, help="load (default 64)")
    parser.add_argument(
        "--seconds", type=float, default=120, help="load: how long the crowd asks (default 120)"
    )
    parser.add_argument("--data", type=Path, help="photos in the RISC layout (default: examples)")
    parser.add_argument(
        "--random-weights",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="give the model's architecture random weights instead of downloading it; those in "
        "FOLDER are kept, and used again",
    )
    parser.add_argument(
        "--records", type=Path, metavar="FOLDER", help="of the record (default: QVLA_RECORDS)"
    )
    parser.add_argument("--json", action="store_true", help="print the record instead of the table")
    add_model_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Prints the table or the record, and keeps the record."""
    settings = settings_of(options)
    options.data = options.data or settings.examples
    options.records = options.records or settings.records
    output = sys.stdout
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr))
        if options.random_weights is not None:
            from qvla.bench.random_weights import kept_checkpoint

            folder = options.random_weights or stack.enter_context(
                tempfile.TemporaryDirectory(prefix="qvla-random-")
            )
            made = kept_checkpoint(settings.model, Path(folder))
            settings = settings.model_copy(update=made)
        text, record = import_module(SUITES[options.suite].module).run(options, settings)
    path = records.write(record, options.records)
    print(as_json(record) if options.json else text, file=output)
    log.info("The record is %s.", path)
    return 0
