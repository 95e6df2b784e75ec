"""`qvla caption PHOTO...`: captions of photos from files and folders, many to a batch."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from qvla.cli import answering
from qvla.cli.answering import Item
from qvla.cli.output import as_json
from qvla.cli.result_file import Kind
from qvla.data.layouts import photos_in
from qvla.errors import FAILED_PHOTOS

CAPTIONS = Kind("caption", "captions", "captioning")

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "photos", metavar="PHOTO", nargs="+", help="PNG, JPEG, WebP or TIFF file, or folder of them"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list, one object a photo")
    answering.add_arguments(parser, "photo")


def run(options: argparse.Namespace) -> int:
    """Prints or writes the results in the order given; exit code 1 when one is no caption."""
    output = sys.stdout
    with redirect_stdout(sys.stderr):  # whatever a library prints is no part of the result
        items = [Item({"photo": photo}) for photo in expanded(options.photos)]
        results = answering.results_of(items, CAPTIONS, "Captioning photos", options, output)
    failed = sum("error" in result for result in results)
    if options.out is not None:
        good = len(results) - failed
        log.info("%d of %d photos are captioned in %s.", good, len(results), options.out)
    if options.json:
        print(as_json(results), file=output, flush=True)
    return FAILED_PHOTOS if failed else 0


def expanded(names: Sequence[str]) -> list[str]:
    """The photos in the order given, a folder's own in its place; one without a photo stays."""
    photos: list[str] = []
    for name in names:
        found = [str(photo) for photo in photos_in(Path(name))] if os.path.isdir(name) else []
        if found:
            log.info("%s has %s.", name, f"{len(found):,} photo{'s' if len(found) > 1 else ''}")
        photos += found or [name]
    return photos
