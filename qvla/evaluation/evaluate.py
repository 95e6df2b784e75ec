"""An evaluation: photos captioned by the variants, scored under the protocols, kept as a record."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qvla.captioning.bank import all_known
from qvla.captioning.bases import computing_type
from qvla.captioning.contenders import check_names, contenders_of, with_weights
from qvla.captioning.decoding import Decoding
from qvla.captioning.lineup import Lineup
from qvla.captioning.prompts import CAPTION_PREFIX
from qvla.data.risc import Example, fingerprint
from qvla.errors import QvlaError
from qvla.evaluation.answers import answer_scores
from qvla.evaluation.looking import clip_overlaps, overlaps
from qvla.evaluation.predictions import Predictions, predict
from qvla.evaluation.scores import Scoring, caption_scores
from qvla.records import store as records
from qvla.scoring import DOCUMENT_FREQUENCIES
from qvla.scoring.answers import ANSWERS, VTGS, VTGS_CLIP
from qvla.settings import Settings

log = logging.getLogger(__name__)

NAMED = 3  # photos that a message names
NO_TOKENIZER = "none"  # of the reported protocol


class EvaluationError(QvlaError):
    """The photos cannot be evaluated as asked; the message says what to mend."""


@dataclass(frozen=True)
class Evaluation:
    """A record not yet written, and the captions that it is of."""

    record: records.Record
    predictions: Predictions


def choose(examples: Sequence[Example], limit: int | None = None) -> list[Example]:
    """The examples to evaluate, in the order given: those with references, at most `limit`.

    A limit takes the photos whose names have the smallest SHA-256: a sample spread evenly over the
    data, the same everywhere, and part of every larger one. Raises EvaluationError when nothing is
    left, and for photos that are listed twice.
    """
    times = Counter(example.name for example in examples)
    twice = [name for name, count in times.items() if count > 1]
    if twice:
        raise EvaluationError(
            f"Photos that are listed more than once cannot be scored: {_some(twice)}; see "
            "`qvla data check`."
        )
    bare = [example.name for example in examples if not example.references]
    asked = any(example.question for example in examples)
    if bare:
        what = "Questions without answers" if asked else "Photos without captions"
        log.warning("%s to score against are left out: %s.", what, _some(bare))
    kept = [example for example in examples if example.references]
    if not kept:
        raise EvaluationError(
            f"The data has no {'questions with answers' if asked else 'photos with captions'} of "
            "that split and those sources; see `qvla data stats`."
        )
    if limit is None:
        return kept
    order = sorted(times, key=lambda name: hashlib.sha256(name.encode()).digest())
    with_references = {example.name for example in kept}
    taken = set([name for name in order if name in with_references][:limit])
    return [example for example in kept if example.name in taken]


def evaluate(
    settings: Settings,
    examples: Sequence[Example],
    variants: Sequence[str] | None = None,
    *,
    data: str,
    out: Path,
    records_folder: Path | None = None,
    limit: int | None = None,
    decoding: Decoding | None = None,
    prefix: str = CAPTION_PREFIX,
    batch_size: int | None = None,
    scoring: Scoring | None = None,
    looking: bool = True,
    lineup: Lineup | None = None,
) -> Evaluation:
    """Captions and scores the examples, or answers and scores them where they are questions; `data`
    is their name in words.

    All contenders that have weights answer, unless `variants` names some, of them or of the bank's
    tasks.

    See `choose` for which examples are taken and `predict` for how they are captioned. The record
    is meant for a file in `records_folder` (default: that of the settings). It can name the files
    of captions only if `out` lies beside that folder. Without `looking`, answers have no VTGS,
    which takes another pass through the model for each.
    """
    scoring = scoring or Scoring()
    decoding = decoding or Decoding()
    if variants is None:
        variants = with_weights(contenders_of(settings))
    contenders = all_known(settings)
    variants = check_names(variants, list(contenders))
    chosen = choose(examples, limit)
    predictions = predict(
        settings,
        chosen,
        variants,
        out=out,
        decoding=decoding,
        prefix=prefix,
        batch_size=batch_size,
        lineup=lineup,
    )
    answered = [example for example in chosen if example.name not in predictions.unreadable]
    if not answered:
        raise EvaluationError("None of the photos could be opened, so there is nothing to score.")
    told: dict[str, Any]
    if any(example.question for example in answered):
        what, told = "answers", {"task": "vqa", "protocols": [ANSWERS]}
        seen = {VTGS: overlaps(settings, answered, predictions, lineup)} if looking else {}
        if scoring.clip is not None:
            seen[VTGS_CLIP] = clip_overlaps(settings, answered, predictions, scoring.clip)
        numbers, more = answer_scores(answered, predictions.captions, scoring, seen)
        told |= more
    else:
        what, told = "evaluation", {"protocols": list(scoring.protocols)}
        numbers, told["tokenizer"] = caption_scores(answered, predictions, scoring)
        told["document_frequencies"] = DOCUMENT_FREQUENCIES
    record = records.new_record(
        what,
        model=settings.model_name,
        variants=variants,
        data=records.Data(
            name=data, items=len(answered), fingerprint=f"sha256:{fingerprint(answered)}"
        ),
        numbers=numbers | _speeds(predictions),
        protocol={
            "split": predictions.plan.split,
            "sources": list(dict.fromkeys(example.source for example in answered)),
            "limit": limit,
            "unreadable": len(predictions.unreadable),
            "decoding": asdict(decoding),
            "prefix": prefix,
            "seed": scoring.seed,
            "resamples": scoring.resamples,
            **told,
            "batch_size": predictions.batch_size,
            "captioned_now": dict(predictions.made),
            "timing": "photos captioned now, from decoded photos to the last token of each batch; "
            "contenders that share weights share batches",
            "device": predictions.plan.device,
            "precision": predictions.plan.contenders[variants[0]]["precision"],
            "contenders": {
                name: {
                    "title": contenders[name].title,
                    "base": Path(contenders[name].base).name,
                    "precision": predictions.plan.contenders[name]["precision"],
                    "computes_in": computing_type(
                        contenders[name], predictions.plan.device, settings.nf4_embeddings
                    ),
                    "adapter": (adapter := contenders[name].adapter) and Path(adapter).name,
                }
                for name in variants
            },
            "nf4_embeddings": predictions.plan.nf4_embeddings,
        },
        files=_files(predictions, records_folder or settings.records),
    )
    return Evaluation(record, predictions)


def _speeds(predictions: Predictions) -> dict[str, float]:
    """Of the photos captioned by this run; nothing for variants whose captions were all there."""
    numbers = {}
    for variant, made in predictions.made.items():
        if made:
            seconds = predictions.seconds[variant]
            numbers[f"{variant}/captioning_seconds"] = seconds
            numbers[f"{variant}/images_per_second"] = made / seconds
    return numbers


def _files(predictions: Predictions, records_folder: Path) -> dict[str, str]:
    root = records_folder.resolve().parent
    folder = predictions.folder.resolve()
    if not folder.is_relative_to(root):
        log.warning(
            "The record cannot name the captions in %s, because they lie outside of %s.",
            predictions.folder,
            root,
        )
        return {}
    return {
        f"predictions/{variant}": (folder / predictions.file(variant).name)
        .relative_to(root)
        .as_posix()
        for variant in predictions.captions
    }


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return f"{shown} and {len(names) - NAMED} more" if len(names) > NAMED else shown
