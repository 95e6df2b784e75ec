"""`qvla caption PHOTO...`: captions of photos from files and folders, many to a batch."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from qvla.captioning.bank import bank_of
from qvla.captioning.contenders import Contender, check_names, contenders_of
from qvla.captioning.options import (
    add_bank_argument,
    add_decoding_arguments,
    add_model_arguments,
    decoding_of,
    load_lineup,
    positive,
    settings_of,
)
from qvla.cli import caption_file
from qvla.cli.caption_file import CaptionFile, Result
from qvla.cli.output import as_json
from qvla.data.layouts import photos_in
from qvla.errors import FAILED_PHOTOS, QvlaError
from qvla.progress import progress
from qvla.settings import Settings
from qvla.words import counted

if TYPE_CHECKING:
    from qvla.captioning.decoding import Decoding
    from qvla.captioning.lineup import Lineup
    from qvla.data.imagery import Photo

ALL = "all"  # the contenders that are there

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "photos", metavar="PHOTO", nargs="+", help="PNG, JPEG, WebP or TIFF file, or folder of them"
    )
    parser.add_argument(
        "--variant",
        default=ALL,
        help="a contender, such as qvla, or a task of the bank; all (the default) is all "
        "contenders there are",
    )
    add_bank_argument(parser)
    parser.add_argument(
        "--batch-size", type=positive, default=8, metavar="N", help="photos at once (default 8)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list, one object a photo")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.jsonl",
        help="write a JSON object a line and photo as they are made, and go on with the same file",
    )
    add_model_arguments(parser)
    add_decoding_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Prints or writes the results in the order given; exit code 1 when one is no caption."""
    settings = settings_of(options, "bank")
    decoding = decoding_of(options)
    output = sys.stdout
    with redirect_stdout(sys.stderr):  # whatever a library prints is no part of the result
        photos = expanded(options.photos)
        asked = _asked(settings, options.variant)
        with _file(options.out, settings, asked, decoding) as file:
            done = {} if file is None else file.done
            if file is not None:
                photos = list(dict.fromkeys(photos))
            todo = [photo for photo in photos if photo not in done]
            results = []
            if todo:
                lineup, variants = _lineup(settings, asked, every=options.variant == ALL)
                with progress(len(photos), "Captioning photos", len(photos) - len(todo)) as bar:
                    for result in captioned(
                        todo, lineup, variants, decoding, settings, batch_size=options.batch_size
                    ):
                        results.append(result)
                        if file is not None:
                            file.add(result)
                        elif not options.json and "error" not in result:
                            bar.say(_in_words(result), output)
                        bar.step()
    failed = any("error" in result for result in results)
    if file is not None:
        good = sum("error" not in done[photo] for photo in photos)
        log.info("%d of %d photos are captioned in %s.", good, len(photos), file.path)
        results = [done[photo] for photo in photos]
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
        captions = iter(caption(lineup, images, variants, decoding) if images else ())
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

    if os.path.isdir(photo):
        return QvlaError("This folder holds no photos; name one that does, or the photos.")
    try:
        return read_photo(
            Path(photo), max_bytes=settings.max_upload_bytes, max_pixels=settings.max_pixels
        )
    except QvlaError as error:
        return error


def _asked(settings: Settings, choice: str) -> list[str]:
    contenders = [one.name for one in contenders_of(settings)]
    return contenders if choice == ALL else check_names([choice], list(_known(settings)))


def _known(settings: Settings) -> dict[str, Contender]:
    """The contenders by name, and then the bank's tasks."""
    contenders = {one.name: one for one in contenders_of(settings)}
    bank = bank_of(settings)
    return contenders if bank is None else {**contenders, **bank.tasks(contenders)}


def _lineup(settings: Settings, asked: Sequence[str], *, every: bool) -> tuple[Lineup, list[str]]:
    """The line-up and the variants that will answer: all that are there, or just the named one."""
    lineup = load_lineup(settings, asked)
    if not every:
        shared = lineup.shared(asked[0])
        with shared.lock:
            for fault in lineup.bring(shared, asked).values():
                raise QvlaError(fault)
    missing = [lineup.variant(name) for name in asked if not lineup.variant(name).available]
    if missing and not every:
        raise QvlaError(f"{missing[0].title} is not available: {missing[0].reason}")
    for variant in missing:
        log.info("%s is left out: %s", variant.title, variant.reason)
    return lineup, [name for name in asked if lineup.variant(name).available]


@contextmanager
def _file(
    path: Path | None, settings: Settings, asked: Sequence[str], decoding: Decoding
) -> Iterator[CaptionFile | None]:
    """The file of `--out`, for captions that are made with these contenders in this way."""
    if path is None:
        yield None
        return
    contenders = [one for name, one in _known(settings).items() if name in asked]
    made_with = {
        "contenders": [one.model_dump() for one in contenders],
        "weights": [_weights(name) for one in contenders for name in (one.base, one.adapter)],
        "decoding": asdict(decoding),
        "nf4_embeddings": settings.nf4_embeddings,
        "device": settings.device,
    }
    digest = hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()
    with caption_file.opened(path.expanduser(), digest[:12]) as file:
        yield file


def _weights(name: str | None) -> list[tuple[str, int, int]]:
    """What tells a folder's weights from others that had its name before; nothing of a hub id."""
    files = sorted(Path(name).glob("*.safetensors")) if name and os.path.isdir(name) else []
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _in_words(result: Result) -> str:
    lines = [result["photo"], *(f"  ({note})" for note in result.get("notes", ()))]
    for name, answer in result["variants"].items():
        speed = f"{counted(answer['tokens'], 'token')} in {answer['seconds']:.2f} s"
        lines.append(f"  {name:8}{answer['caption']}  ({speed})")
    return "\n".join(lines)
