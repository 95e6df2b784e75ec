"""Questions about photos with their answers, made by rules from captions and scene classes.

    python -m qvla.embedded.questions --data DIR --split val --out questions.csv

They are made when they are needed and are not part of this repository, since the captions' terms
hold for what is made of them. The table has the columns ID, Question, Answer, Filename and Type.

The words are those that the embedded model knows, but for "how", which people will ask with anyway.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qvla.data.risc import Example
from qvla.embedded.question_balance import Asked, balanced
from qvla.embedded.question_rules import THINGS, Facts, Usual, facts_of
from qvla.embedded.sources import TrainingPhoto, photos_of, training_photos
from qvla.errors import QvlaError

COLUMNS = ("ID", "Question", "Answer", "Filename", "Type")
COUNTS = {1: "one", 2: "two", 3: "three", 4: "four"}
# Nouns whose colour the photo has to be looked at for.
COLOURED = frozenset(
    "roof roofs building buildings house houses river water land bareland ocean sea field fields "
    "court courts track mountain mountains church beach pond plane planes car cars tanks stadium "
    "road roads desert farmland farmlands lake playground".split()
)
COUNTED = frozenset(
    ("airplane", "boat", "car", "building", "house", "river", "bridge", "pond", "swimming pool",
     "tennis court", "basketball court", "baseball field", "football field", "playground",
     "parking lot", "storage tank", "runway", "island", "church")
)  # fmt: skip
# What people call the classes of the data sets; without an entry a class has its own name.
SCENES = {
    "agricultural": "farmland", "bareland": "bare land", "baseballdiamond": "baseball field",
    "baseballfield": "baseball field", "commercialarea": "commercial area",
    "commercial": "commercial area", "denseresidential": "dense residential",
    "golfcourse": "golf course", "industrial": "industrial area",
    "industrialarea": "industrial area", "mediumresidential": "medium residential",
    "mobilehomepark": "mobile home park", "parking": "parking lot", "parkinglot": "parking lot",
    "playfields": "playground", "port": "harbor", "railwaystation": "railway station",
    "sparseresidential": "sparse residential", "storagetanks": "storage tanks",
    "tenniscourt": "tennis court",
}  # fmt: skip
URBAN = frozenset(
    "buildings center commercial commercialarea denseresidential industrial industrialarea "
    "mediumresidential parking parkinglot railwaystation school square stadium".split()
)
NOT_URBAN = frozenset(
    "agricultural bareland beach chaparral desert farmland forest island lake meadow mountain "
    "sparseresidential wetland".split()
)
PRESENCE = ("is there any {one} ?", "is there {a} {one} ?", "are there any {many} ?")


@dataclass(frozen=True)
class Kind:
    """How a type of question is made, how many a photo there may be, and the largest share of its
    rows that one answer may have.
    """

    make: Callable[[int, TrainingPhoto, Facts, random.Random], list[Asked]]
    most: float
    share: float


def make_questions(
    photos: Sequence[TrainingPhoto], usual: Usual, *, seed: int = 0
) -> list[Example]:
    """Questions about the photos as rows, those of one photo together; `usual` tells what captions
    of a scene pass over. The same photos and seed make the same rows.
    """
    rng = random.Random(seed)
    facts = [facts_of(photo, usual) for photo in photos]
    chosen: list[Asked] = []
    for kind in KINDS.values():
        made = [
            asked
            for number, photo in enumerate(photos)
            for asked in kind.make(number, photo, facts[number], rng)
        ]
        chosen += balanced(made, round(kind.most * len(photos)), kind.share, rng)
    chosen.sort(key=lambda asked: asked.photo)
    numbers: Counter[int] = Counter()
    rows = []
    for asked in chosen:
        example = photos[asked.photo].example
        numbers[asked.photo] += 1
        rows.append(
            replace(
                example,
                name=f"{example.name}#{numbers[asked.photo]}",
                references=(asked.answer,),
                question=asked.question,
                kind=asked.kind,
            )
        )
    return rows


def _presence(number: int, photo: TrainingPhoto, facts: Facts, rng: random.Random) -> list[Asked]:
    made = []
    for thing in THINGS:
        if thing in facts.there or thing in facts.absent:
            wording = rng.choice(PRESENCE[: 3 if thing.many else 2])
            article = "an" if thing.one[0] in "aeiou" else "a"
            question = wording.format(one=thing.one, many=thing.many, a=article)
            answer = "yes" if thing in facts.there else "no"
            made.append(Asked(number, "presence", thing.one, question, answer))
    return made


def _comparison(number: int, photo: TrainingPhoto, facts: Facts, rng: random.Random) -> list[Asked]:
    """Balanced by the pair, in this order: without the photo there is no telling."""
    made = []
    counted = [(thing, span) for thing, span in facts.counts.items() if thing.one in COUNTED]
    for more, (low, high) in counted:
        for less, (least, most) in counted:
            if low > most or high < least:
                question = f"are there more {more.many} than {less.many} ?"
                answer = "yes" if low > most else "no"
                made.append(Asked(number, "comparison", (more.one, less.one), question, answer))
    return made


def _count(number: int, photo: TrainingPhoto, facts: Facts, rng: random.Random) -> list[Asked]:
    made = []
    for thing, (low, high) in facts.counts.items():
        told = thing.one in COUNTED and not thing.unnoticed
        if told and low == high and low in COUNTS:
            question = f"how many {thing.many} are there ?"
            made.append(Asked(number, "count", thing.one, question, COUNTS[int(low)]))
    return made


def _colour(number: int, photo: TrainingPhoto, facts: Facts, rng: random.Random) -> list[Asked]:
    made = []
    for noun, colour in facts.colours.items():
        if noun in COLOURED:
            question = f"what color {'are' if noun.endswith('s') else 'is'} the {noun} ?"
            made.append(Asked(number, "color", noun, question, colour))
    return made


def _scene(number: int, photo: TrainingPhoto, facts: Facts, rng: random.Random) -> list[Asked]:
    answer = SCENES.get(photo.scene, photo.scene)
    return [Asked(number, "scene", "scene", "which scene is this ?", answer)]


def _urban(number: int, photo: TrainingPhoto, facts: Facts, rng: random.Random) -> list[Asked]:
    if photo.scene not in URBAN | NOT_URBAN:
        return []
    answer = "yes" if photo.scene in URBAN else "no"
    return [Asked(number, "urban", "urban", "is this an urban area ?", answer)]


KINDS = {
    "presence": Kind(_presence, 0.5, 0.5),
    "comparison": Kind(_comparison, 0.6, 0.5),
    "count": Kind(_count, 0.5, 0.4),
    "color": Kind(_colour, 0.5, 0.35),
    "scene": Kind(_scene, 0.2, 0.1),
    "urban": Kind(_urban, 0.1, 0.5),
}


def questions_of(
    data: Path, split: str, sources: Sequence[str] | None = None, *, seed: int = 0
) -> list[Example]:
    """The questions about a split of a folder in the RISC layout with `origin.csv`.

    Raises DatasetError when it is not there.
    """
    training = training_photos(data)
    photos = training if split == "train" else photos_of(data, split)
    asked = [photo for photo in photos if sources is None or photo.source in sources]
    return make_questions(asked, Usual(training), seed=seed)


def write_table(questions: Sequence[Example], path: Path) -> None:
    """The questions as CSV; photos by their file names."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for row in questions:
            table.writerow((row.name, row.question, row.references[0], row.image.name, row.kind))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder in the RISC layout, with origin.csv")
    add("--split", default="val", help="whose photos are asked about")
    add("--source", help="sources of the photos, with commas between them; default: all")
    add("--out", type=Path, required=True, help="the table to write")
    add("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    sources = options.source.split(",") if options.source else None
    try:
        questions = questions_of(options.data, options.split, sources, seed=options.seed)
        write_table(questions, options.out)
    except (QvlaError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.out}: {len(questions):,} questions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
