"""An evaluation's questions with what the contenders answered: found, filtered, and as HTML.

A record names the files of its answers, and those name the questions; questions, right answers and
photos come from the folders that this app was given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from qvla.data import imagery
from qvla.data.risc import Example
from qvla.errors import QvlaError
from qvla.scoring.answers.words import exact_match
from qvla.ui.ask.question_folder import QuestionFolder
from qvla.ui.contenders import colour_style
from qvla.ui.grid import Tile, render_scored_tiles, tiles_of
from qvla.ui.measured.evaluations import Evaluation
from qvla.ui.measured.scored_photos import SHOWN_PIXELS, PhotosMissingError, answers_files
from qvla.ui.photo_folder import ALL
from qvla.ui.pictures import data_uri

PAGE_SIZE = 24
DIFFER, NONE_RIGHT = "differ", "none"
WRONG = "wrong-"  # before a contender's name


@dataclass(frozen=True)
class Page:
    """One page of the questions that match; `number` counts from 1 and always exists."""

    questions: tuple[Example, ...]
    number: int
    pages: int
    matching: int


@dataclass(frozen=True)
class Answered:
    """Questions with the answers of all contenders, by contender and then by question."""

    evaluation: Evaluation
    questions: Mapping[str, Example]
    answers: Mapping[str, Mapping[str, str]]

    @property
    def kinds(self) -> list[str]:
        return list(dict.fromkeys(one.kind for one in self.questions.values() if one.kind))

    @property
    def shows(self) -> list[tuple[str, str]]:
        """What may be shown, by title and key."""
        titles = self.evaluation.titles
        wrong = [(f"{titles[name]} wrong", f"{WRONG}{name}") for name in self.answers]
        several = [("right and wrong", DIFFER), ("all wrong", NONE_RIGHT)]
        return [("all", ALL), *(several if len(wrong) > 1 else ()), *wrong]

    def right(self, name: str) -> list[str]:
        """The contenders whose answer to a question is a right one word for word."""
        due = self.questions[name].references
        return [who for who, said in self.answers.items() if exact_match(said[name], due)]

    def page(self, kind: str = ALL, show: str = ALL, number: int = 1) -> Page:
        matching = [
            one
            for one in self.questions.values()
            if kind in (ALL, one.kind) and self._shown(one.name, show)
        ]
        pages = max(1, math.ceil(len(matching) / PAGE_SIZE))
        number = min(max(1, int(number)), pages)
        shown = matching[(number - 1) * PAGE_SIZE : number * PAGE_SIZE]
        return Page(tuple(shown), number, pages, len(matching))

    def _shown(self, name: str, show: str) -> bool:
        if show == ALL:
            return True
        right = self.right(name)
        if show == DIFFER:
            return 0 < len(right) < len(self.answers)
        if show == NONE_RIGHT:
            return not right
        return show.removeprefix(WRONG) not in right


def read_answered(evaluation: Evaluation, folders: Sequence[QuestionFolder]) -> Answered:
    """The questions of an evaluation that are on this machine, from the folder with most of them.

    Raises QvlaError when there is nothing to show, with a sentence that says why.
    """
    from qvla.scoring import read_predictions

    files = answers_files(evaluation)
    answers = {name: read_predictions(path) for name, path in files.items()}
    names = set.intersection(*(set(said) for said in answers.values()))
    most: Mapping[str, Example] = {}
    for folder in folders:
        here = {
            name: one
            for name, one in folder.questions().items()
            if name in names and one.references
        }
        most = here if len(here) > len(most) else most
    if not most:
        data = evaluation.record.data
        raise PhotosMissingError(
            f"The questions of this evaluation ({data.name if data else 'unnamed'}) are not on "
            "this machine: set QVLA_DATA to the folder that holds them and their photos."
        )
    return Answered(evaluation, most, answers)


# ---- as HTML -------------------------------------------------------------------------------------


def render_questions(answered: Answered, page: Page) -> str:
    """A page of small pictures with how many of the contenders answered right."""
    tiles, texts = [], []
    for tile, question in zip(tiles_of(page.questions), page.questions, strict=True):
        right = f"{len(answered.right(question.name))} of {len(answered.answers)} right"
        tiles.append(Tile(tile.key, f"{question.question} {right}", tile.source))
        texts.append(right)
    return render_scored_tiles(tiles, texts, "Questions and how many answered right")


def render_question(answered: Answered, name: str) -> str:
    """One question with its photo, the right answers, and what each contender answered."""
    example = answered.questions[name]
    try:
        picture = data_uri(imagery.open_image(example.image), SHOWN_PIXELS)
        face = f'<img src="{picture}" alt="The photo {escape(example.image.name)}">'
    except QvlaError as error:
        face = f'<p class="empty">{escape(str(error))}</p>'
    due = "".join(f"<li>{escape(text)}</li>" for text in dict.fromkeys(example.references))
    right = answered.right(name)
    titles = answered.evaluation.titles
    said = "".join(
        f'<div data-variant="{escape(who)}"{colour_style(who, titles)}><dt>{escape(titles[who])}'
        f"</dt><dd>{escape(answers[name]) or '<span class=placeholder>It said nothing.</span>'}"
        f'</dd><dd class="score">{"right" if who in right else "not the right answer"}</dd></div>'
        for who, answers in answered.answers.items()
    )
    kind = f"<span>{escape(example.kind)}</span>" if example.kind else ""
    return (
        f'<article class="evaluated"><figure>{face}<figcaption><b>{escape(example.image.name)}</b>'
        f'{kind}</figcaption></figure><div class="told"><section><h4>Question</h4><p lang="en">'
        f"{escape(example.question)}</p></section><section><h4>Right answer</h4>"
        f'<ul lang="en">{due}</ul></section><section><h4>Answers</h4><dl lang="en">{said}</dl>'
        "</section></div></article>"
    )
