"""`qvla curate PHOTOS`: questions about photos, answered by an OpenAI-compatible endpoint."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from qvla.errors import FAILED_PHOTOS, QvlaError
from qvla.words import counted

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photos", metavar="PHOTOS", type=Path, help="folder of photos")
    parser.add_argument(
        "--questions",
        action="append",
        default=[],
        metavar="QUESTION",
        help="asked about every photo; may be given several times",
    )
    parser.add_argument(
        "--questions-file", type=Path, metavar="FILE", help="further questions, one a line"
    )
    parser.add_argument(
        "--endpoint", required=True, metavar="URL", help="such as https://api.example.com/v1"
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="as the endpoint calls it")
    parser.add_argument(
        "--keys",
        type=Path,
        metavar="FILE",
        help="API keys, one a line, used in turn (default: none are sent)",
    )
    parser.add_argument(
        "--per-minute",
        type=_rate,
        default=0.0,
        metavar="N",
        help="requests a minute that each key may make (default: no limit)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="a .csv or .jsonl file, a row an answer; the same command goes on with it",
    )


def run(options: argparse.Namespace) -> int:
    """Exit code 1 when photos could not be read or questions had no answer."""
    from qvla import proxies
    from qvla.curation.curate import Curation
    from qvla.curation.endpoint import Endpoint
    from qvla.curation.keys import KeyPool, read_keys
    from qvla.curation.rows import answer_file

    proxies.spare()
    if (fault := proxies.fault()) is not None:
        raise QvlaError(fault)
    questions = _questions(options.questions, options.questions_file)
    secrets = [""] if options.keys is None else read_keys(options.keys.expanduser())
    keys = KeyPool(secrets, options.per_minute)
    with (
        Endpoint(options.endpoint, options.model) as endpoint,
        answer_file(options.out.expanduser()) as file,
    ):
        curation = Curation(endpoint, keys, file)
        try:
            curation.run(options.photos.expanduser(), questions)
        finally:
            tally, there = curation.tally, len(file.done)
            log.info("%s more, now %d in %s.", counted(tally.answered, "answer"), there, file.path)
            if tally.wordy:
                log.warning("Of them %d have more than one word.", tally.wordy)
    return FAILED_PHOTOS if tally.unreadable or tally.unanswered else 0


def _questions(given: list[str], file: Path | None) -> list[str]:
    """Each once. Raises QvlaError where there are none, and for what cannot be asked."""
    from qvla.data.questions import clean_question

    lines = list(given)
    if file is not None:
        try:
            lines += file.expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise QvlaError(
                f"The questions in {file} cannot be read: name a text file, one a line."
            ) from error
    questions = list(dict.fromkeys(clean_question(line) for line in lines if line.strip()))
    if not questions:
        raise QvlaError("There is no question: ask some with --questions or --questions-file.")
    return questions


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value
