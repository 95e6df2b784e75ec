"""Where the contenders looked for their answers: the visual part of VTGS, kept as it is found.

By the model's own attention (`captioning.attention`): R_A of the seed report's equation 12 is the
quarter of the image tokens that the answer attends to most, and R_Q that of the question.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from qvla.captioning.attention import where_it_looked
from qvla.captioning.generation import CaptioningError
from qvla.captioning.lineup import Lineup
from qvla.captioning.options import load_lineup
from qvla.captioning.prompts import prompt_of
from qvla.data.imagery import open_image
from qvla.data.risc import Example
from qvla.evaluation import prediction_log
from qvla.evaluation.prediction_log import Sight
from qvla.evaluation.predictions import Predictions
from qvla.progress import progress
from qvla.scoring.answers import Clip, most_of, overlap
from qvla.scoring.answers.clip import clip_overlaps as found_by_clip
from qvla.settings import Settings

log = logging.getLogger(__name__)

TOGETHER = 32  # looks kept in one write


def overlaps(
    settings: Settings,
    examples: Sequence[Example],
    predictions: Predictions,
    lineup: Lineup | None = None,
) -> dict[str, dict[str, float]]:
    """By contender and question, the overlap of where it looked for the question and for its
    answer. A contender of a family that does not tell has none.

    Goes on where an earlier run was cut off. Weights are loaded only when something is missing,
    unless a `lineup` is given. Raises PredictionLogError as `predict` does.
    """
    found: dict[str, dict[str, float]] = {}
    missing = {name: _missing(predictions, name, examples) for name in predictions.captions}
    todo = {name: rest for name, rest in missing.items() if rest}
    if todo:
        with prediction_log.held(predictions.folder):
            lineup = lineup or load_lineup(settings, list(todo))
            _look(settings, todo, predictions, lineup)
    for name in predictions.captions:
        sights = prediction_log.read(sight_file(predictions, name), Sight)
        seen = {sight.image: overlap(sight.answer, sight.question) for sight in sights}
        common = {key: value for key, value in seen.items() if value is not None}
        if common:
            found[name] = common
    return found


def clip_overlaps(
    settings: Settings, examples: Sequence[Example], predictions: Predictions, clip: Clip
) -> dict[str, dict[str, float]]:
    """The same by what CLIP finds in the photos, of every contender (`scoring.answers.clip`)."""
    limits = {"max_bytes": settings.max_upload_bytes, "max_pixels": settings.max_pixels}
    found: dict[str, dict[str, float]] = {name: {} for name in predictions.captions}
    with progress(len(found) * len(examples), "Looking with CLIP") as bar:
        for start in range(0, len(examples), TOGETHER):
            some = examples[start : start + TOGETHER]
            images = [open_image(example.image, **limits) for example in some]
            questions = [example.question for example in some]
            for name, answers in predictions.captions.items():
                said = [answers[example.name] for example in some]
                values = found_by_clip(images, questions, said, clip).tolist()
                found[name] |= zip((example.name for example in some), values, strict=True)
                bar.step(len(some))
    return found


def sight_file(predictions: Predictions, name: str) -> Path:
    """Where it is kept at what a contender looked."""
    return predictions.folder / f"{name}.looked.jsonl"


def _missing(predictions: Predictions, name: str, examples: Sequence[Example]) -> list[Example]:
    there = {one.image for one in prediction_log.read(sight_file(predictions, name), Sight)}
    return [example for example in examples if example.name not in there]


def _look(
    settings: Settings,
    todo: Mapping[str, Sequence[Example]],
    predictions: Predictions,
    lineup: Lineup,
) -> None:
    limits = {"max_bytes": settings.max_upload_bytes, "max_pixels": settings.max_pixels}
    with progress(sum(map(len, todo.values())), "Looking where answers come from") as bar:
        for name, examples in todo.items():
            file = sight_file(predictions, name)
            prediction_log.cut_half_line(file)
            for start in range(0, len(examples), TOGETHER):
                sights = []
                for example in examples[start : start + TOGETHER]:
                    try:
                        looked = where_it_looked(
                            lineup,
                            name,
                            open_image(example.image, **limits),
                            prompt_of(example.question),
                            predictions.captions[name][example.name],
                        )
                    except CaptioningError as error:
                        log.info("%s has no VTGS: %s", name, error)
                        break
                    own = (most_of(looked.question), most_of(looked.answer))
                    sights.append(Sight(example.name, *map(sorted, own)))
                    bar.step()
                if not sights:
                    break
                prediction_log.append(file, sights)
