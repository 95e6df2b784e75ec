"""What the embedded base is pre-trained on: everything but the captions of its data sets.

Each task has a PaliGemma-style prefix of its own. Together they teach the words and the grammar of
captions and tie them to the photo. `caption en` itself is answered as PaliGemma was taught to, with
what a photo is called on the web (arXiv 2407.07726, section 3.2): a few words, so that the adapter
has the sentence left to teach.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qvla.embedded.sources import TrainingPhoto
from qvla.models.families.word_tokens import split_words
from qvla.settings import CAPTION_PREFIX

GAP = "_"
ALT_TEXT = 3  # words
TASK_WORDS = ("classify", "keywords", "answer", "complete", "fill", "write", "caption", "en",
              "is", "there", "any", "?", "yes", "no", "which", "scene", GAP)  # fmt: skip
FUNCTION_WORDS = frozenset(
    "a an and are as at be by for from has have in into is it its of off on or over so some that "
    "the their there these this to two three four many with which several lots lot piece pieces "
    "were was can we see near next between around beside besides side sides other another one "
    '. , ; : ! ? ( ) "'.split()
)


@dataclass(frozen=True)
class Prompt:
    prefix: str
    suffix: str


def prompts_of(
    photo: TrainingPhoto, common_words: Sequence[str], rng: random.Random
) -> list[Prompt]:
    """Four about one photo: its scene or a question, words or a gap, and two sentences."""
    short = rng.choice((_classify, _answer))
    middle = rng.choice((_keywords, _fill, _caption))
    return [make(photo, common_words, rng) for make in (short, middle, _complete, _write)]


Task = Callable[[TrainingPhoto, Sequence[str], random.Random], Prompt]


def _classify(photo: TrainingPhoto, _: Sequence[str], __: random.Random) -> Prompt:
    return Prompt("classify en", photo.scene)


def _answer(photo: TrainingPhoto, common_words: Sequence[str], rng: random.Random) -> Prompt:
    """Is a thing there? Half of the questions are about things that no caption mentions."""
    said = sorted(set().union(*(_content(caption) for caption in photo.example.references)))
    asked_for_there = bool(said) and rng.random() < 0.5
    word = rng.choice(said if asked_for_there else list(common_words))
    return Prompt(f"answer en is there any {word} ?", "yes" if word in said else "no")


def _keywords(photo: TrainingPhoto, _: Sequence[str], rng: random.Random) -> Prompt:
    caption = rng.choice(photo.example.references)
    return Prompt("keywords en", " , ".join(sorted(_content(caption))))


def _caption(photo: TrainingPhoto, _: Sequence[str], rng: random.Random) -> Prompt:
    """The first things that a caption speaks of, as an alt text would: `white airplane ground`."""
    caption = rng.choice(photo.example.references)
    return Prompt(CAPTION_PREFIX, " ".join(_things(caption)[:ALT_TEXT]))


def _fill(photo: TrainingPhoto, _: Sequence[str], rng: random.Random) -> Prompt:
    words = split_words(rng.choice(photo.example.references))
    gap = rng.randrange(len(words))
    question = " ".join([*words[:gap], GAP, *words[gap + 1 :]])
    return Prompt(f"fill en {question}", words[gap])


def _complete(photo: TrainingPhoto, _: Sequence[str], rng: random.Random) -> Prompt:
    """The rest of a sentence; seldom much of it is given, since the start is the hardest to see."""
    words = split_words(rng.choice(photo.example.references))
    given = min(1 + int(rng.expovariate(0.6)), len(words) - 1)
    return Prompt(f"complete en {' '.join(words[:given])}", " ".join(words[given:]))


def _write(photo: TrainingPhoto, _: Sequence[str], rng: random.Random) -> Prompt:
    """A sentence that holds some given words."""
    caption = rng.choice(photo.example.references)
    words = sorted(_content(caption))
    given = rng.sample(words, min(len(words), rng.randint(1, 3)))
    return Prompt(f"write en {' , '.join(given)}", " ".join(split_words(caption)))


def _content(caption: str) -> set[str]:
    return set(_things(caption))


def _things(caption: str) -> list[str]:
    """What a caption speaks of, in its order."""
    return [word for word in split_words(caption) if word not in FUNCTION_WORDS]
