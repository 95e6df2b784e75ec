"""Made-up captions of made-up photos whose PTB tokens are known by how they are put together."""

from __future__ import annotations

import random
from dataclasses import dataclass

WORDS = """its the some many two white green long round small boats houses trees roofs fields roads
ponds sheds cars river bridge quay beside near under along in with and""".split()
ENDS = (".", " .", "!", "")


@dataclass(frozen=True)
class Made:
    """Raw texts and their tokens, by image."""

    references: dict[str, list[str]]
    captions: dict[str, str]
    reference_tokens: dict[str, list[str]]
    caption_tokens: dict[str, list[str]]  # lists of one, as pycocoevalcap has them


def make(photos: int, seed: int = 0, *, change: float = 0.4) -> Made:
    """Two to five references a photo; the caption is one of them, cut, with some words changed."""
    chance = random.Random(seed)
    made = Made({}, {}, {}, {})
    for number in range(photos):
        image = f"{number:04}.png"
        lines = [
            chance.choices(WORDS, k=chance.randint(4, 10)) for _ in range(chance.randint(2, 5))
        ]
        said = lines[0][: max(3, len(lines[0]) - chance.randint(0, 3))]
        said = [chance.choice(WORDS) if chance.random() < change else word for word in said]
        made.references[image] = [_raw(line, chance) for line in lines]
        made.captions[image] = _raw(said, chance)
        made.reference_tokens[image] = [" ".join(line) for line in lines]
        made.caption_tokens[image] = [" ".join(said)]
    return made


def _raw(words: list[str], chance: random.Random) -> str:
    comma = chance.randrange(1, len(words))
    text = " ".join(words[:comma]) + chance.choice((", ", " , ", " ")) + " ".join(words[comma:])
    return text.capitalize() + chance.choice(ENDS)


REFERENCES = {
    "quay": ["Two ferries lie at a long quay.", "A quay with two white ferries .", "ferries"],
    "farm": ["Round green fields on dry ground.", "Circles of crops in the desert."],
    "park": ["A small park with a pond, and paths", "There's a pond in the park!"],
}
CANDIDATES = {
    "park": "a pond in a small park .",
    "quay": "Two ferries, lie at quay",
    "farm": "many houses in rows",
}
