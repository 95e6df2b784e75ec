"""`qvla caption PHOTO...`: captions of photos from files, many to a batch."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvla.captioning.contenders import check_names, contenders_of
from qvla.captioning.options import (
    add_decoding_arguments,
    add_model_arguments,
    decoding_of,
    load_lineup,
    positive,
    settings_of,
)
from qvla.errors import FAILED_PHOTOS, QvlaError
from qvla.settings import Settings

if TYPE_CHECKING:
    from qvla.captioning.decoding import Decoding
    from qvla.captioning.lineup import Lineup
    from qvla.data.imagery import Photo

Result = dict[str, Any]  # one photo's entry, as `--json` prints it

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photos", metavar="PHOTO", nargs="+", help="PNG, JPEG, WebP or TIFF file")
    parser.add_argument(
        "--variant",
        default="all",
        help="a contender, such as qvla; all (the default) is all there are",
    )
    parser.add_argument(
        "--batch-size", type=positive, default=8, metavar="N", help="photos at once (default 8)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list, one object a photo")
    add_model_arguments(parser)
    add_decoding_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Prints the results in the order given; exit code 1 when a photo could not be captioned."""
    settings = settings_of(options)
    decoding = decoding_of(options)
    output = sys.stdout
    with redirect_stdout(sys.stderr):  # whatever a library prints is no part of the result
        lineup, variants = _lineup(settings, options.variant)
        results = []
        for result in captioned(
            options.photos, lineup, variants, decoding, settings, batch_size=options.batch_size
        ):
            results.append(result)
            if not options.json and "error" not in result:
                print(_in_words(result), file=output, flush=True)
    if options.json:
        print(json.dumps(results, indent=2, ensure_ascii=False), file=output, flush=True)
    return FAILED_PHOTOS if any("error" in result for result in results) else 0


def captioned(
    photos: Sequence[str],
    lineup: Lineup,
    variants: Sequence[str],
    decoding: Decoding,
    settings: Settings,
    *,
    batch_size: int,
) -> Iterator[Result]:
    """One result a photo, in order. Unreadable photos take no place in a batch of `batch_size`."""
    waiting: list[tuple[str, Photo | QvlaError]] = []
    readable = 0
    for photo in photos:
        opened = _read(photo, settings)
        waiting.append((photo, opened))
        readable += not isinstance(opened, QvlaError)
        if readable == batch_size:
            yield from _batch(waiting, lineup, variants, decoding)
            waiting, readable = [], 0
    yield from _batch(waiting, lineup, variants, decoding)


def _batch(
    waiting: Sequence[tuple[str, Photo | QvlaError]],
    lineup: Lineup,
    variants: Sequence[str],
    decoding: Decoding,
) -> Iterator[Result]:
    from qvla.captioning.engine import caption

    images = [opened.image for _, opened in waiting if not isinstance(opened, QvlaError)]
    fault = None
    try:
        captions = iter(caption(lineup, images, variants, decoding))
    except QvlaError as error:  # out of memory, say: the results before this batch still count
        fault = error
    for photo, opened in waiting:
        problem = opened if isinstance(opened, QvlaError) else fault
        if problem is not None:
            log.error("%s: %s", photo, problem)
            yield {"photo": photo, "error": str(problem)}
            continue
        yield {
            "photo": photo,
            **({"notes": list(opened.notes)} if opened.notes else {}),
            "variants": {
                name: {
                    "caption": answer.text,
                    "tokens": answer.tokens,
                    "seconds_to_first_token": answer.seconds_to_first_token,
                    "seconds": answer.seconds,
                    "weight_bytes": lineup.variant(name).weight_bytes,
                }
                for name, answer in next(captions).items()
            },
        }


def _read(photo: str, settings: Settings) -> Photo | QvlaError:
    from qvla.data.imagery import read_photo

    if Path(photo).is_dir():
        return QvlaError("This is a folder; name the photos in it, for instance with FOLDER/*.jpg.")
    try:
        return read_photo(
            Path(photo), max_bytes=settings.max_upload_bytes, max_pixels=settings.max_pixels
        )
    except QvlaError as error:
        return error


def _lineup(settings: Settings, choice: str) -> tuple[Lineup, list[str]]:
    """The line-up and the variants that will answer: all that are there, or just the named one."""
    known = [one.name for one in contenders_of(settings)]
    asked = known if choice == "all" else check_names([choice], known)
    lineup = load_lineup(settings, asked)
    missing = [lineup.variant(name) for name in asked if not lineup.variant(name).available]
    if missing and choice != "all":
        raise QvlaError(f"{missing[0].title} is not available: {missing[0].reason}")
    for variant in missing:
        log.info("%s is left out: %s", variant.title, variant.reason)
    return lineup, [name for name in asked if lineup.variant(name).available]


def _in_words(result: Result) -> str:
    lines = [result["photo"], *(f"  ({note})" for note in result.get("notes", ()))]
    for name, answer in result["variants"].items():
        speed = f"{answer['tokens']} tokens in {answer['seconds']:.2f} s"
        lines.append(f"  {name:8}{answer['caption']}  ({speed})")
    return "\n".join(lines)
