"""`qvla import-adapterhub`: an adapter that AdapterHub's library saved, as one to use here."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path

from qvla.cli.output import as_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="adapter_config.json with pytorch_adapter.bin or safetensors",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the adapter to")
    parser.add_argument("--model", help="base to check it against: a folder or a hub id")
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(options: argparse.Namespace) -> int:
    """Converts one folder and says what it was."""
    output = sys.stdout
    with redirect_stdout(sys.stderr):
        from qvla.tuning.adapterhub import import_adapterhub

        done = import_adapterhub(options.folder, options.out, options.model)
    if options.json:
        print(as_json(done.card()), file=output)
    else:
        norms = ", with the normalisation layers after them" if done.train_norms else ""
        print(
            f"{done.folder}: {done.name}, {done.parameters:,} parameters in {len(done.layers)} "
            f"layers at {' and '.join(done.sites)}{norms}",
            file=output,
        )
    return 0
