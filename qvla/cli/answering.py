"""What `caption` and `ask` share: many things said of many photos, in batches, file or no file."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from qvla.captioning.bank import all_known
from qvla.captioning.certainty import unfamiliar_notes
from qvla.captioning.contenders import check_names, contenders_of
from qvla.captioning.options import (
    add_bank_argument,
    add_decoding_arguments,
    add_model_arguments,
    decoding_of,
    load_lineup,
    positive,
    settings_of,
)
from qvla.cli import result_file
from qvla.cli.result_file import Kind, Result, ResultFile
from qvla.errors import QvlaError
from qvla.progress import progress
from qvla.settings import Settings
from qvla.words import counted

if TYPE_CHECKING:
    from qvla.captioning.decoding import Decoding
    from qvla.captioning.lineup import Lineup
    from qvla.data.imagery import Photo

ALL = "all"  # the contenders that are there

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """A photo of which something is to be said, in answer to `question` if there is one.

    `told` is what its entry begins with: the photo, and whatever tells it from others.
    """

    told: Mapping[str, Any]
    question: str = ""

    @property
    def photo(self) -> str:
        return str(self.told["photo"])


def add_arguments(parser: argparse.ArgumentParser, a_line: str) -> None:
    """The options of who says something, and how; `a_line` is what a line of `--out` is about."""
    parser.add_argument(
        "--variant",
        default=ALL,
        metavar="NAMES",
        help="contenders, such as qvla, or tasks of the bank, with commas between; all (the "
        "default) is all contenders there are",
    )
    add_bank_argument(parser)
    parser.add_argument(
        "--batch-size", type=positive, default=8, metavar="N", help="photos at once (default 8)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.jsonl",
        help=f"write a JSON object a line and {a_line} as they are made, and go on with the same "
        "file",
    )
    add_model_arguments(parser)
    add_decoding_arguments(parser)


def results_of(
    items: Sequence[Item], kind: Kind, what: str, options: argparse.Namespace, output: TextIO
) -> list[Result]:
    """One result an item, in order, each written or printed as it is made; `what` is being done.

    With `--out` each item counts once, and what the file holds already is not made again.
    """
    settings = settings_of(options, "bank")
    decoding = decoding_of(options)
    asked = _asked(settings, options.variant)
    made_with = _made_with(settings, asked, decoding, kind)
    with _file(options.out, kind, made_with) as file:
        done = {} if file is None else file.done
        if file is not None:
            items = list({kind.key(item.told): item for item in items}.values())
        todo = [item for item in items if kind.key(item.told) not in done]
        results = []
        if todo:
            lineup, variants = _lineup(settings, asked, every=options.variant == ALL)
            with progress(len(items), what, len(items) - len(todo)) as bar:
                for result in _made(
                    todo, kind, lineup, variants, decoding, settings, batch_size=options.batch_size
                ):
                    results.append(result)
                    if file is not None:
                        file.add(result)
                    elif not options.json and "error" not in result:
                        bar.say(_in_words(result, kind), output)
                    bar.step()
        return results if file is None else [done[kind.key(item.told)] for item in items]


def _made(
    items: Sequence[Item],
    kind: Kind,
    lineup: Lineup,
    variants: Sequence[str],
    decoding: Decoding,
    settings: Settings,
    *,
    batch_size: int,
) -> Iterator[Result]:
    """One result an item, in order. Unreadable photos take no place in a batch of `batch_size`."""
    waiting: list[tuple[Item, Photo | QvlaError]] = []
    readable = 0
    for item in items:
        # The same photo as before is the same image, which the engine looks at once.
        if waiting and waiting[-1][0].photo == item.photo:
            opened = waiting[-1][1]
        else:
            opened = _read(item.photo, settings)
        waiting.append((item, opened))
        readable += not isinstance(opened, QvlaError)
        if readable == batch_size:
            yield from _batch(waiting, kind, lineup, variants, decoding)
            waiting, readable = [], 0
    yield from _batch(waiting, kind, lineup, variants, decoding)


def _batch(
    waiting: Sequence[tuple[Item, Photo | QvlaError]],
    kind: Kind,
    lineup: Lineup,
    variants: Sequence[str],
    decoding: Decoding,
) -> Iterator[Result]:
    from qvla.captioning.engine import caption
    from qvla.captioning.prompts import prompt_of
    from qvla.captioning.vocabulary import vocabulary_notes

    readable = [(item, one) for item, one in waiting if not isinstance(one, QvlaError)]
    images = [opened.image for _, opened in readable]
    prompts = [prompt_of(item.question) for item, _ in readable]
    fault = None
    try:
        answers = iter(caption(lineup, images, variants, decoding, prompts) if images else ())
    except QvlaError as error:  # out of memory, say: the results before this batch still count
        fault = error
    for item, opened in waiting:
        problem = opened if isinstance(opened, QvlaError) else fault
        if isinstance(opened, QvlaError) or problem is not None:
            log.error("%s: %s", item.photo, problem)
            yield {**item.told, "error": str(problem)}
            continue
        said = next(answers)
        notes = [
            *opened.notes,
            *vocabulary_notes(lineup, variants, item.question),
            *unfamiliar_notes(said.values()),
        ]
        yield {
            **item.told,
            **({"notes": notes} if notes else {}),
            "variants": {
                name: {
                    kind.field: answer.text,
                    "tokens": answer.tokens,
                    "seconds_to_first_token": answer.seconds_to_first_token,
                    "seconds": answer.seconds,
                    "weight_bytes": lineup.variant(name).weight_bytes,
                }
                for name, answer in said.items()
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
    if choice == ALL:
        return contenders
    names = [name for name in map(str.strip, choice.split(",")) if name]
    return check_names(names, list(all_known(settings)))


def _lineup(settings: Settings, asked: Sequence[str], *, every: bool) -> tuple[Lineup, list[str]]:
    """The line-up and the variants that will answer: all that are there, or just the named ones."""
    lineup = load_lineup(settings, asked)
    for name in () if every else asked:
        shared = lineup.shared(name)
        with shared.lock:
            for fault in lineup.bring(shared, [name]).values():
                raise QvlaError(fault)
    missing = [lineup.variant(name) for name in asked if not lineup.variant(name).available]
    if missing and not every:
        raise QvlaError(f"{missing[0].title} is not available: {missing[0].reason}")
    for variant in missing:
        log.info("%s is left out: %s", variant.title, variant.reason)
    return lineup, [name for name in asked if lineup.variant(name).available]


def _made_with(
    settings: Settings, asked: Sequence[str], decoding: Decoding, kind: Kind
) -> dict[str, Any]:
    """What makes one run's results other than another's."""
    contenders = [one for name, one in all_known(settings).items() if name in asked]
    return {
        "contenders": [one.model_dump() for one in contenders],
        "weights": [_weights(name) for one in contenders for name in (one.base, one.adapter)],
        "decoding": asdict(decoding),
        "nf4_embeddings": settings.nf4_embeddings,
        "device": settings.device,
        "said": kind.field,
    }


@contextmanager
def _file(
    path: Path | None, kind: Kind, made_with: Mapping[str, Any]
) -> Iterator[ResultFile | None]:
    """The file of `--out`, for results that are made in this way."""
    if path is None:
        yield None
        return
    digest = hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()
    with result_file.opened(path.expanduser(), kind, digest[:12]) as file:
        yield file


def _weights(name: str | None) -> list[tuple[str, int, int]]:
    """What tells a folder's weights from others that had its name before; nothing of a hub id."""
    files = sorted(Path(name).glob("*.safetensors")) if name and os.path.isdir(name) else []
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _in_words(result: Result, kind: Kind) -> str:
    lines = [result["photo"], *(f"  {result[name]}" for name in ("question",) if name in result)]
    lines += [f"  ({note})" for note in result.get("notes", ())]
    for name, answer in result["variants"].items():
        speed = f"{counted(answer['tokens'], 'token')} in {answer['seconds']:.2f} s"
        lines.append(f"  {name:8}{answer[kind.field]}  ({speed})")
    return "\n".join(lines)
