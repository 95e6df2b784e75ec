"""The photos of an evaluation on the page: sorted small pictures, and one of them opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import gradio as gr

from qvla.errors import QvlaError
from qvla.ui.grid import photo_grid
from qvla.ui.measured.evaluations import Evaluation
from qvla.ui.measured.scored_photos import EvaluatedPhotos, PhotoShelf, render_photo, render_photos
from qvla.ui.pager import Pager
from qvla.ui.photo_folder import ALL

Update = dict[Any, Any]
Find = Callable[[], Sequence[Evaluation]]

HIGHEST, LOWEST = "highest first", "lowest first"
FIRST_ORDER = "qvla"
LEAD = (
    "Sorted by their share in the CIDEr of the standard protocol, or by how much two variants "
    "differ in it. A share weighs words by how few of these photos' captions use them, and the "
    "shares' mean is the CIDEr above. CIDEr-D, 0 to 10, is what the Compare tab shows: it weighs "
    "words by 10,414 train photos, so it does not depend on which photos are scored together."
)
# On narrow screens the opened photo lies below all small ones.
SHOW_PHOTO = """() => {
  const photo = document.getElementById("cider-photo");
  if (photo && photo.getBoundingClientRect().top > innerHeight * 0.7) photo.scrollIntoView();
}"""


class EvaluatedPanel:
    """`find` gives the evaluations, first the one to show first; `shelf` has their photos."""

    def __init__(self, shelf: PhotoShelf, find: Find) -> None:
        self.shelf, self.find = shelf, find
        self.shown = gr.State("")  # the stem of the evaluation whose photos are shown
        gr.HTML(
            f'<h3>Photos</h3><p class="lead">{LEAD}</p>',
            elem_classes="section-title",
        )
        self.notice = gr.HTML(elem_id="cider-photos-notice", label="About the photos")
        self.count = gr.HTML(elem_id="cider-photos-count", label="Count")
        with gr.Row(visible=False, elem_classes=["filters", "photo-filters"]) as self.filters:
            self.order = gr.Dropdown([], label="Sort by", min_width=180, elem_id="cider-order")
            self.direction = gr.Dropdown(
                [HIGHEST, LOWEST],
                value=HIGHEST,
                label="Order",
                min_width=140,
                elem_id="cider-direction",
            )
            self.source = gr.Dropdown(
                [ALL], value=ALL, label="Source", min_width=120, elem_id="cider-source"
            )
            self.pager = Pager("cider")
        with gr.Row(elem_classes="evaluated-row"):
            self.grid = photo_grid("", elem_id="cider-grid", label="Photo")
            self.photo = gr.HTML(elem_id="cider-photo", label="Opened photo")
        self._wire()

    @property
    def outputs(self) -> list[Any]:
        controls = [self.filters, self.order, self.source, *self.pager.outputs]
        return [self.shown, self.notice, self.count, *controls, self.grid, self.photo]

    def fill(self, stem: str, shown: str = "") -> Update:
        """Shows the photos of this evaluation, or of another one where it has none to show.

        `shown` is what is shown already: if it is the same, sorting and opened photo stay.
        """
        evaluations = list(self.find())
        wanted = [one for one in evaluations if one.stem == stem]
        others = [one for one in evaluations if one.stem != stem]
        sentence = "" if wanted else "No evaluation has been measured yet."
        for evaluation in wanted + others:
            try:
                photos = self.shelf.of(evaluation)
            except QvlaError as error:
                sentence = str(error) if evaluation in wanted else sentence
                continue
            sentences = _warnings(photos)
            if evaluation in others:
                sentences = [sentence, f"These are the photos of {evaluation.title}.", *sentences]
            first = {} if evaluation.stem == shown else self._first(photos)
            return {self.shown: evaluation.stem, self.notice: _notice(sentences), **first}
        return {
            self.shown: "",
            self.notice: _notice([sentence]),
            self.count: "",
            self.filters: gr.Row(visible=False),
            self.grid: gr.HTML(value=None, tiles=""),
            self.photo: "",
        }

    # ---- events -------------------------------------------------------------------------------

    def _wire(self) -> None:
        options = [self.shown, self.order, self.direction, self.source]
        page = [self.count, self.grid]
        quiet = {"show_progress": "hidden", "api_visibility": "undocumented"}
        self.pager.wire(self._turn, options, page)
        for control in (self.order, self.direction, self.source):
            name = str(control.label).lower().replace(" ", "_")
            control.input(
                self._sort,
                inputs=options,
                outputs=[*page, *self.pager.outputs],
                api_name=f"cider_{name}",
                **quiet,
            )
        self.grid.pick(
            self._open,
            inputs=[self.shown, self.grid],
            outputs=[self.photo],
            api_name="cider_open_photo",
            **quiet,
        ).then(None, js=SHOW_PHOTO)

    def _first(self, photos: EvaluatedPhotos) -> Update:
        order = photos.order(FIRST_ORDER)
        page = photos.page(order, highest_first=True)
        sources = photos.sources
        return {
            self.filters: gr.Row(visible=True),
            self.order: gr.Dropdown(
                choices=[(one.title, one.key) for one in photos.orders], value=order.key
            ),
            self.source: gr.Dropdown(
                choices=[ALL, *sources], value=ALL, interactive=len(sources) > 1
            ),
            self.photo: render_photo(photos, page.photos[0].name),
            **self._page(photos, order.key, HIGHEST, ALL, 1),
        }

    def _turn(self, stem: str, order: str, direction: str, source: str, number: int) -> Update:
        return self._page(self._photos(stem), order, direction, source, number)

    def _sort(self, stem: str, order: str, direction: str, source: str) -> Update:
        return self._page(self._photos(stem), order, direction, source, 1)

    def _open(self, stem: str, name: str | None) -> Update:
        photos = self._photos(stem)
        if name not in photos.examples:
            raise gr.Error(
                f"There is no photo {name!r} in this evaluation: choose another.",
                print_exception=False,
            )
        return {self.photo: render_photo(photos, name)}

    def _photos(self, stem: str) -> EvaluatedPhotos:
        evaluation = next((one for one in self.find() if one.stem == stem), None)
        if evaluation is None:
            raise gr.Error("Choose an evaluation first.", print_exception=False)
        try:
            return self.shelf.of(evaluation)
        except QvlaError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def _page(
        self, photos: EvaluatedPhotos, key: str, direction: str, source: str, number: int
    ) -> Update:
        order = photos.order(key)
        highest_first = direction == HIGHEST
        page = photos.page(order, highest_first=highest_first, source=source, number=number)
        matching = f"{page.matching:,} photo{'' if page.matching == 1 else 's'}"
        return {
            self.count: f'<p class="count" role="status">{matching}, page {page.number} of '
            f"{page.pages}</p>",
            **self.pager.show(page.number, page.pages),
            self.grid: gr.HTML(value=None, tiles=render_photos(photos, page, order)),
        }


def _notice(sentences: Sequence[str]) -> str:
    text = " ".join(sentence for sentence in sentences if sentence)
    return f'<p class="notice">{escape(text)}</p>' if text else ""


def _warnings(photos: EvaluatedPhotos) -> list[str]:
    """What keeps these scores from being exactly those of the record."""
    warnings = []
    if photos.absent:
        warnings.append(
            f"{photos.absent:,} of its photos are not on this machine, so the scores here are of "
            f"the other {len(photos.examples):,} alone."
        )
    elif not photos.same_data:
        warnings.append(
            "The photos or captions by people here differ from those that this evaluation was made "
            "of, so scores may differ from its record."
        )
    return warnings
