"""The photos of an evaluation with their captions and scores: found, sorted, and as HTML.

A record names its captions' files, and those name the photos; the photos and their references come
from the folders that this app was given.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from qvla.data import imagery
from qvla.data.risc import Example, fingerprint
from qvla.errors import QvlaError
from qvla.ui import units
from qvla.ui.contenders import colour_style, titles_of
from qvla.ui.grid import Tile, render_scored_tiles, tiles_of
from qvla.ui.measured.cider_figures import signed
from qvla.ui.measured.evaluations import Evaluation
from qvla.ui.photo_folder import ALL, PhotoFolder, examples_or_none
from qvla.ui.pictures import data_uri
from qvla.ui.sentences import as_sentence, marked

PAGE_SIZE = 24
KEPT = 6  # evaluations whose scores are remembered
SHOWN_PIXELS = 640


class PhotosMissingError(QvlaError):
    """An evaluation's photos or captions are not on this machine; the message says what to do."""


@dataclass(frozen=True)
class Order:
    """By the CIDEr of `first`, or with `second` by how much `first` has more than that."""

    first: str
    second: str = ""
    titles: Mapping[str, str] = field(default_factory=titles_of, compare=False, repr=False)

    @property
    def key(self) -> str:
        return f"{self.first}-minus-{self.second}" if self.second else self.first

    @property
    def title(self) -> str:
        first = self.titles.get(self.first, self.first)
        if not self.second:
            return f"CIDEr of {first}"
        return f"{first} minus {self.titles.get(self.second, self.second)}"


@dataclass(frozen=True)
class Page:
    """One page of the photos in an order; `number` counts from 1 and is always one that exists."""

    photos: tuple[Example, ...]
    number: int
    pages: int
    matching: int


@dataclass(frozen=True)
class EvaluatedPhotos:
    """Photos with all variants' captions. `scores` are by variant, then by photo.

    A score is a photo's share in the CIDEr of the standard protocol: their mean over all photos is
    the value of the table. `same_data` says whether photos and references are those that the
    record was made of; `absent` counts captioned photos that are not on this machine.
    """

    evaluation: Evaluation
    examples: Mapping[str, Example]
    captions: Mapping[str, Mapping[str, str]]
    scores: Mapping[str, Mapping[str, float]]
    same_data: bool
    absent: int

    @property
    def orders(self) -> list[Order]:
        """All ways to sort: the differences of the more trained variant from the lesser."""
        names = list(self.captions)
        pairs = [(b, a) for place, a in enumerate(names) for b in names[place + 1 :]]
        titles = self.evaluation.titles
        singles = [(name, "") for name in names]
        return [Order(*pair, titles) for pair in (*singles, *reversed(pairs))]

    @property
    def sources(self) -> list[str]:
        return sorted({example.source for example in self.examples.values() if example.source})

    def order(self, key: str | None) -> Order:
        """The order of that key, else the first."""
        by_key = {order.key: order for order in self.orders}
        return by_key.get(key or "") or self.orders[0]

    def value(self, order: Order, name: str) -> float:
        value = self.scores[order.first][name]
        return value - self.scores[order.second][name] if order.second else value

    def page(
        self, order: Order, *, highest_first: bool = False, source: str = ALL, number: int = 1
    ) -> Page:
        names = [name for name, example in self.examples.items() if source in (ALL, example.source)]
        names.sort(key=lambda name: self.value(order, name), reverse=highest_first)
        pages = max(1, math.ceil(len(names) / PAGE_SIZE))
        number = min(max(1, int(number)), pages)
        shown = names[(number - 1) * PAGE_SIZE : number * PAGE_SIZE]
        return Page(tuple(self.examples[name] for name in shown), number, pages, len(names))


class PhotoShelf:
    """Finds an evaluation's photos and remembers the scores of the last few evaluations."""

    def __init__(self, folders: Sequence[PhotoFolder]) -> None:
        self.folders = folders
        self._lock = threading.Lock()
        self._known: dict[object, EvaluatedPhotos] = {}

    def of(self, evaluation: Evaluation) -> EvaluatedPhotos:
        """Raises QvlaError when there is nothing to show, with a sentence that says why."""
        files = answers_files(evaluation)
        key = (evaluation.kept.path, *((path, path.stat().st_mtime_ns) for path in files.values()))
        with self._lock:  # so that two visitors do not score the same captions at once
            if key not in self._known:
                self._known[key] = self._gather(evaluation, files)
                for oldest in list(self._known)[:-KEPT]:
                    del self._known[oldest]
            return self._known[key]

    def _gather(self, evaluation: Evaluation, files: Mapping[str, Path]) -> EvaluatedPhotos:
        from qvla.scoring import read_predictions, score_corpus

        captions = {variant: read_predictions(path) for variant, path in files.items()}
        names = set.intersection(*(set(said) for said in captions.values()))
        examples = self._examples(evaluation, names)
        if not examples:
            data = evaluation.record.data
            raise PhotosMissingError(
                f"The photos of this evaluation ({data.name if data else 'unnamed'}) are not on "
                "this machine: set QVLA_DATA to the folder that holds them."
            )
        references = {name: example.references for name, example in examples.items()}
        scores = {
            variant: score_corpus(
                references, {name: said[name] for name in examples}, ("CIDEr",)
            ).per_image["CIDEr"]
            for variant, said in captions.items()
        }
        return EvaluatedPhotos(
            evaluation,
            examples,
            captions,
            scores,
            same_data=_is_of(evaluation, list(examples.values())),
            absent=len(names) - len(examples),
        )

    def _examples(self, evaluation: Evaluation, names: set[str]) -> dict[str, Example]:
        """Those photos that lie on this machine: from the folder whose photos and references have
        the record's fingerprint, or else from the one that has the most of these names.
        """
        most: dict[str, Example] = {}
        for folder in self.folders:
            here = {
                example.name: example
                for example in examples_or_none(folder)
                if example.name in names and example.references and example.image.is_file()
            }
            if len(here) == evaluation.photos and _is_of(evaluation, list(here.values())):
                return here
            most = here if len(here) > len(most) else most
        return most


def answers_files(evaluation: Evaluation) -> dict[str, Path]:
    """The files of what each variant said. Raises PhotosMissingError when there is none."""
    files = {name: evaluation.predictions(name) for name in evaluation.variants}
    files = {name: path for name, path in files.items() if path is not None}
    if not files:
        said = "answers" if evaluation.record.what == "answers" else "captions"
        raise PhotosMissingError(
            f"The {said} of this evaluation are not on this machine, so its photos cannot be "
            "shown; its figures above can. Measure one of your own to browse its photos."
        )
    return files


def _is_of(evaluation: Evaluation, examples: Sequence[Example]) -> bool:
    data = evaluation.record.data
    return data is not None and data.fingerprint.removeprefix("sha256:") == fingerprint(examples)


# ---- as HTML -------------------------------------------------------------------------------------


def render_photos(photos: EvaluatedPhotos, page: Page, order: Order) -> str:
    """A page of small pictures with the value that they are sorted by."""
    tiles, texts = [], []
    for tile in tiles_of(page.photos):
        value = photos.value(order, tile.key)
        text = signed(value) if order.second else f"{value:.3f}"
        tiles.append(Tile(tile.key, f"{tile.key}, {order.title} {text}", tile.source))
        texts.append(text)
    return render_scored_tiles(tiles, texts, f"Photos by {order.title}")


def render_photo(photos: EvaluatedPhotos, name: str) -> str:
    """One photo with its references and each variant's caption, words of the references marked."""
    example = photos.examples[name]
    try:
        picture = data_uri(imagery.open_image(example.image), SHOWN_PIXELS)
        face = f'<img src="{picture}" alt="The photo {escape(name)}">'
    except QvlaError as error:
        face = f'<p class="empty">{escape(str(error))}</p>'
    best = max(photos.scores[variant][name] for variant in photos.captions)
    references = "".join(f"<li>{escape(as_sentence(text))}</li>" for text in example.references)
    said = "".join(_said(photos, variant, example, best) for variant in photos.captions)
    source = f"<span>{escape(example.source)}</span>" if example.source else ""
    return (
        f'<article class="evaluated"><figure>{face}<figcaption><b>{escape(name)}</b>{source}'
        f'</figcaption></figure><div class="told"><section><h4>Captions by people</h4>'
        f'<ul lang="en">{references}</ul></section><section><h4>Captions by variants</h4>'
        f'<dl lang="en">{said}</dl></section></div></article>'
    )


def _said(photos: EvaluatedPhotos, variant: str, example: Example, best: float) -> str:
    from qvla.scoring import shared_words

    caption = photos.captions[variant][example.name]
    score = photos.scores[variant][example.name]
    said = marked(shared_words(caption, example.references))
    share = max(score, 0.0) / best if best > 0 else 0.0
    return (
        f'<div data-variant="{escape(variant)}"{colour_style(variant, photos.evaluation.titles)}>'
        f"<dt>{escape(photos.evaluation.titles[variant])}</dt>"
        f"<dd>{said or '<span class=placeholder>It said nothing.</span>'}</dd>"
        f'<dd class="score">Share in CIDEr <b>{score:.3f}</b>'
        f'<i class="bar" style="--share:{share:.3f}"></i></dd>'
        f'<dd class="score">CIDEr-D <span>{_cider_d(caption, example.references)}</span></dd></div>'
    )


def _cider_d(caption: str, references: Sequence[str]) -> str:
    """The caption's own score, as the Compare tab gives it."""
    from qvla.scoring import sentence_scores

    try:
        return units.score(sentence_scores(caption, references).cider_d)
    except QvlaError:  # references without a word
        return units.UNKNOWN
