"""`qvla ask PHOTO "QUESTION"`: what each contender answers; `--questions FILE` for many."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path

from qvla.cli import answering
from qvla.cli.answering import Item
from qvla.cli.output import as_json
from qvla.cli.result_file import Kind
from qvla.data.questions import clean_question, read_questions
from qvla.data.risc import Example
from qvla.errors import FAILED_PHOTOS, QvlaError

ANSWERS = Kind("answer", "answers", "answering questions", ("photo", "question", "id"))

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photo", metavar="PHOTO", nargs="?", help="PNG, JPEG, WebP or TIFF file")
    parser.add_argument("question", metavar="QUESTION", nargs="?", help="what to ask about it")
    parser.add_argument(
        "--questions",
        type=Path,
        metavar="FILE",
        help="ask many: a CSV of ID, Question, Answer and Filename, JSON or JSON Lines of the "
        "same, VQAv2's or RSVQA's file of questions, or a folder with one",
    )
    parser.add_argument(
        "--photos",
        type=Path,
        metavar="DIR",
        help="where the photos of --questions lie (default: beside it)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print a JSON object, or a list of --questions"
    )
    answering.add_arguments(parser, "question")


def run(options: argparse.Namespace) -> int:
    """Prints or writes the results in the order given; exit code 1 when one is no answer."""
    output = sys.stdout
    with redirect_stdout(sys.stderr):  # whatever a library prints is no part of the result
        items = _items(options)
        results = answering.results_of(items, ANSWERS, "Answering questions", options, output)
    failed = sum("error" in result for result in results)
    if options.out is not None:
        good = len(results) - failed
        log.info("%d of %d questions are answered in %s.", good, len(results), options.out)
    if options.json:
        print(as_json(results if options.questions else results[0]), file=output, flush=True)
    return FAILED_PHOTOS if failed else 0


def _items(options: argparse.Namespace) -> list[Item]:
    """What is asked. Raises QvlaError where it is not one photo and question, or one file."""
    if options.questions is not None:
        if options.photo is not None:
            raise QvlaError("Name either a photo and a question, or a file with --questions.")
        return [_item(example) for example in read_questions(options.questions, options.photos)]
    if options.photo is None or options.question is None:
        raise QvlaError("Name a photo and a question in quotes, or many with --questions.")
    if options.photos is not None:
        raise QvlaError("--photos says where the photos of --questions lie: leave it out.")
    if os.path.isdir(options.photo):
        raise QvlaError(f"{options.photo} is a folder: name one photo, or many with --questions.")
    question = clean_question(options.question)
    return [Item({"photo": options.photo, "question": question}, question)]


def _item(example: Example) -> Item:
    told = {"photo": str(example.image), "question": example.question}
    if example.key:
        told["id"] = example.key
    references = {"references": list(example.references)} if example.references else {}
    return Item({**told, **references}, example.question)
