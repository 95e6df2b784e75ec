"""`qvla evaluate --data DIR --split val`: captions photos, or answers questions about them, scores
that and keeps a record.
"""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from qvla.captioning.bank import all_known
from qvla.captioning.contenders import check_names, contenders_of, with_weights
from qvla.captioning.options import (
    add_bank_argument,
    add_decoding_arguments,
    add_model_arguments,
    decoding_of,
    positive,
    settings_of,
)
from qvla.cli.output import as_json
from qvla.errors import FAILED_PHOTOS, QvlaError
from qvla.files import is_there, printable
from qvla.records import store as records

if TYPE_CHECKING:
    from qvla.data.risc import Example
    from qvla.evaluation.scores import Scoring

PROTOCOLS = ("standard", "reported")
CAPTION, VQA = TASKS = ("caption", "vqa")
SPLIT = "val"  # of captions, where none is named
AUTO = "auto"

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The same command goes on where an earlier one was cut off, and captions nothing twice."
    )
    parser.add_argument(
        "--task", choices=TASKS, default=CAPTION, help="vqa answers questions (default: caption)"
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="folder in the RISC layout, or hub id; of questions, the file with them or its folder",
    )
    parser.add_argument(
        "--photos", metavar="FOLDER", help="of questions (default: looked for beside them)"
    )
    parser.add_argument("--split", help="default: val; of questions, all")
    parser.add_argument(
        "--caption-template",
        metavar="TEXT",
        help="makes captions of a table's columns, such as '{title}: {attributes.color}'",
    )
    parser.add_argument(
        "--source", type=_names, metavar="NAMES", help="such as RSICD,UCM (default: all)"
    )
    parser.add_argument(
        "--variant",
        type=_names,
        metavar="NAMES",
        help="contenders, such as base,adapter,qvla, or tasks of the bank (default: all "
        "contenders that have weights)",
    )
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="photos; always the same even sample"
    )
    parser.add_argument(
        "--batch-size",
        type=_batch_size,
        default=AUTO,
        metavar="N",
        help="photos at once, halved whenever memory runs out (default: auto)",
    )
    parser.add_argument(
        "--protocol",
        choices=(*PROTOCOLS, "both"),
        default="both",
        help="standard: all references, PTB tokens; reported: one drawn reference, raw strings",
    )
    parser.add_argument(
        "--resamples", type=positive, default=1000, metavar="N", help="of the bootstrap"
    )
    parser.add_argument(
        "--reference-seed", type=int, default=0, metavar="N", help="draws the reported reference"
    )
    parser.add_argument(
        "--no-meteor", action="store_true", help="save the minute or so that METEOR takes"
    )
    parser.add_argument(
        "--no-vtgs", action="store_true", help="save the second pass that VTGS takes for answers"
    )
    parser.add_argument(
        "--clip-model",
        metavar="NAME",
        help="that finds regions for vtgs_clip (default: CLIP ViT-B/32 where it is at hand)",
    )
    parser.add_argument(
        "--bert-model", metavar="NAME", help="of BERTScore for answers (default: MiniLM)"
    )
    parser.add_argument(
        "--bert-layers", type=positive, metavar="N", help="of a model that bert-score does not know"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="of captions (default: beside the records)"
    )
    parser.add_argument(
        "--records", type=Path, metavar="FOLDER", help="of the record (default: QVLA_RECORDS)"
    )
    parser.add_argument("--json", action="store_true", help="print the record instead of tables")
    add_decoding_arguments(parser)
    add_model_arguments(parser)
    add_bank_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Prints tables or the record, and keeps the record; exit code 1 when photos were left out."""
    settings = settings_of(options, "bank")
    if options.variant is not None:
        variants = check_names(options.variant, list(all_known(settings)))
    else:
        variants = with_weights(contenders_of(settings))
    records_folder = options.records or settings.records
    output = sys.stdout
    with redirect_stdout(sys.stderr):  # whatever a library prints is no part of the result
        from qvla.evaluation.answers_table import answers_table
        from qvla.evaluation.evaluate import evaluate
        from qvla.evaluation.table import table

        _check_sampling(options)
        folder = Path(options.data).expanduser()
        evaluation = evaluate(
            settings,
            _examples(options),
            variants,
            data=printable(folder.resolve().name) if is_there(folder) else options.data,
            out=options.out or records_folder.resolve().parent / "evaluations",
            records_folder=records_folder,
            limit=options.limit,
            decoding=decoding_of(options),
            batch_size=None if options.batch_size == AUTO else options.batch_size,
            scoring=_scoring(options),
            looking=not options.no_vtgs,
        )
        record = evaluation.record
        path = records.write(record, records_folder)
        in_words = answers_table if options.task == VQA else table
        text = as_json(record) if options.json else in_words(record)
    print(text, file=output, flush=True)
    log.info("The captions are in %s and the record is %s.", evaluation.predictions.folder, path)
    unreadable = len(evaluation.predictions.unreadable)
    if unreadable:
        log.error("%d photos could not be opened and are left out of all scores.", unreadable)
    return FAILED_PHOTOS if unreadable else 0


def _examples(options: argparse.Namespace) -> list[Example]:
    from qvla.data.examples import read_examples
    from qvla.data.questions import read_questions
    from qvla.data.splits import split_name

    if options.task == CAPTION:
        if options.photos is not None:
            raise QvlaError("--photos is of questions: add --task vqa, or leave it out.")
        return read_examples(
            options.data,
            splits=[options.split or SPLIT],
            sources=options.source,
            template=options.caption_template,
        )
    questions = read_questions(options.data, options.photos)
    if options.split is not None:
        splits = list(dict.fromkeys(example.split for example in questions))
        questions = [one for one in questions if one.split == split_name(options.split)]
        if not questions:
            raise QvlaError(
                f"{options.data} has no questions in the split {options.split!r}: its splits are "
                f"{', '.join(splits)}."
            )
    return [one for one in questions if options.source is None or one.source in options.source]


def _scoring(options: argparse.Namespace) -> Scoring:
    from qvla.evaluation.scores import Scoring
    from qvla.scoring import METRICS
    from qvla.scoring.answers import Bert, Clip
    from qvla.scoring.answers.clip import clip_at_hand

    if options.task == VQA:
        clip = Clip(options.clip_model) if options.clip_model else clip_at_hand()
        return Scoring(
            resamples=options.resamples,
            seed=options.reference_seed,
            bert=Bert(options.bert_model, options.bert_layers),
            clip=None if options.no_vtgs else clip,
        )
    return Scoring(
        protocols=PROTOCOLS if options.protocol == "both" else (options.protocol,),
        metrics=METRICS if options.no_meteor else None,
        resamples=options.resamples,
        seed=options.reference_seed,
    )


def _check_sampling(options: argparse.Namespace) -> None:
    if options.temperature and options.seed is None:
        raise QvlaError(
            "Sampled captions need a --seed here, so that an evaluation that goes on later is one."
        )


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _batch_size(text: str) -> int | str:
    return AUTO if text == AUTO else positive(text)
