"""What the embedded base is asked about a photo before any adapter."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

from qvla.data.risc import Example
from qvla.embedded.sources import TrainingPhoto
from qvla.embedded.tasks import prompts_of

CAPTIONS = (
    "there are many white airplanes near the gray terminal of an airport .",
    "some planes .",
)
PHOTO = TrainingPhoto(Example(Path("a.png"), "MADE", "train", CAPTIONS), "airport")


def asked(times: int = 400) -> dict[str, set[str]]:
    """The answers that were seen to each task."""
    drawn, seen = random.Random(0), defaultdict(set)
    for _ in range(times):
        for prompt in prompts_of(PHOTO, ["boats", "planes"], drawn):
            seen[prompt.prefix.split()[0]].add(prompt.suffix)
    return seen


def test_a_caption_is_asked_for_and_only_the_things_of_it_are_told() -> None:
    assert asked()["caption"] == {"white airplanes gray", "planes"}


def test_whole_sentences_are_told_where_words_of_them_were_given_alone() -> None:
    sentences = set(CAPTIONS)
    told = {task for task, answers in asked().items() if answers & sentences}
    assert told == {"write"}


def test_every_task_is_drawn() -> None:
    assert asked().keys() == {
        *("answer", "caption", "classify", "complete", "fill", "keywords", "write"),
    }
