"""What comes back: an entry of the history, or what a link asks for."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr
from gradio.data_classes import FileData
from PIL import Image

from qvla.data.imagery import open_image
from qvla.errors import QvlaError
from qvla.settings import Settings
from qvla.ui.compare import photo
from qvla.ui.compare.card import as_uri, draw_card
from qvla.ui.compare.choice import PaneChoice
from qvla.ui.compare.controls import DecodingControls
from qvla.ui.compare.history import MOST_NOTE, Comparison
from qvla.ui.compare.history_panel import HistoryPanel
from qvla.ui.compare.keeping import PHOTO_GONE, Shown
from qvla.ui.compare.kept import KeptPhoto
from qvla.ui.compare.links import Link, digest_of, read_link
from qvla.ui.compare.offers import LEAST, offers
from qvla.ui.panes import Pane
from qvla.ui.photo_folder import PhotoFolder
from qvla.ui.pictures import HISTORY_PIXELS

# The query goes once it was read, so that a reload brings back what is there by then.
QUERY = """() => {
  const query = location.search;
  if (/[?&](example|photo)=/.test(query)) {
    history.replaceState(history.state, "", location.pathname + location.hash);
  }
  return [query];
}"""
PRESS = """(press) => {
  if (press) document.getElementById("compare").click();
}"""
SAVE = """(uri) => {
  if (!uri) return;
  const link = document.createElement("a");
  link.href = uri;
  link.download = "qvla-card.png";
  link.click();
}"""
Update = dict[Any, Any]


class Reopening:
    """Lays out the line that says what a link wants; `wire` has all of it work."""

    def __init__(self, settings: Settings, examples: PhotoFolder) -> None:
        self.settings, self.examples = settings, examples
        self.wanted = gr.State(None)  # the link whose photo is still to be brought
        self.query = gr.Textbox("", visible=False, label="Query")
        self.press = gr.Textbox("", visible=False, label="Press")
        self.uri = gr.Textbox("", visible=False, label="Card")
        self.note = gr.HTML("", elem_id="link-note", label="Link")

    def wire(
        self,
        parts: Shown,
        history: HistoryPanel,
        choice: PaneChoice,
        decoding: DecodingControls,
        dropped: Callable[..., Update],
        told: Callable[[tuple[Pane, ...]], Update],
        looked: list[Any],
    ) -> list[tuple[Any, str]]:
        """`dropped` gives the updates for what goes with the photo before, `told` those that show
        panes. Returns the events after which the visit is to be kept, each with its name.
        """
        self.parts, self.history, self.choice, self.decoding = parts, history, choice, decoding
        self.dropped, self.told = dropped, told
        self.outputs = [*parts, choice.chosen, *choice.outputs, *decoding, *looked]
        quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "undocumented"}
        table, visited = history.table, history.visited
        kept = []
        for event, handler, outputs, name in (
            (table.reopen, self._reopen, self.outputs, "reopen"),
            (table.remove, self._remove, history.outputs, "remove_entry"),
            (table.note, self._annotate, history.outputs, "note_entry"),
        ):
            done = event(handler, inputs=[table, visited], outputs=outputs, api_name=name, **quiet)
            kept.append((done, name))
        table.card(
            self._card, inputs=[table, visited], outputs=[self.uri], api_name="card", **quiet
        ).then(None, inputs=[self.uri], js=SAVE)
        return kept

    def wire_links(self, restored: Any, brought: Any) -> None:
        """`restored` is the event after which the page shows what was kept, `brought` the one after
        which it shows a photo that was handed in. Call it after `wire`.
        """
        quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "undocumented"}
        answer = [self.note, self.press, self.wanted]
        opened = restored.then(
            self._open_link,
            inputs=[self.query],
            outputs=[*answer, *self.outputs],
            js=QUERY,
            api_name="open_link",
            **quiet,
        )
        came = brought.then(
            self._brought,
            inputs=[self.parts.chosen, self.wanted],
            outputs=answer,
            api_name="bring_photo",
            **quiet,
        )
        for event in (opened, came):
            event.then(None, inputs=[self.press], js=PRESS)

    # ---- history ------------------------------------------------------------------------------

    def _reopen(self, asked: Any, visited: tuple[Comparison, ...], request: gr.Request) -> Update:
        """All as it was: the photo if it is still on the server, and the captions in any case."""
        entry = _entry(asked, visited)
        parts = self.parts
        references = "\n".join(entry.references)
        updates = {
            **self._set([pane.name for pane in entry.panes], _controls(entry)),
            **self.dropped((), request, None),
            parts.references: references,
            parts.filled: references if entry.example else "",
            parts.chosen: None,
            **self.told(entry.panes),
        }
        file = KeptPhoto(entry.file, entry.photo).file() if entry.file else None
        try:
            if file is None:
                raise QvlaError(PHOTO_GONE)
            opened = photo.open_photo(file, self.settings)
        except QvlaError as error:
            view = f'<figure><img src="{escape(entry.thumbnail)}" alt="{escape(entry.photo)}">'
            name = f"<figcaption><b>{escape(entry.photo)}</b></figcaption></figure>"
            refused = photo.PhotoInput(value=None, view=view + name, problem=escape(str(error)))
            return {**updates, parts.photo: refused}
        return {**updates, parts.photo: photo.shown(file, opened), parts.chosen: file}

    def _remove(self, asked: Any, visited: tuple[Comparison, ...]) -> Update:
        gone = _entry(asked, visited)
        return self.history.show(tuple(one for one in visited if one.key != gone.key))

    def _annotate(self, asked: Any, visited: tuple[Comparison, ...]) -> Update:
        entry = _entry(asked, visited)
        note = " ".join(str(asked.get("note") or "").split())[:MOST_NOTE]
        noted = replace(entry, note=note)
        return self.history.show(tuple(noted if one is entry else one for one in visited))

    def _card(self, asked: Any, visited: tuple[Comparison, ...]) -> str:
        entry = _entry(asked, visited)
        file = KeptPhoto(entry.file, entry.photo).file() if entry.file else None
        try:
            image = photo.open_photo(file, self.settings).image
        except QvlaError:  # it is gone: what is left is the small one
            image = _small(entry)
        return as_uri(draw_card(entry, image))

    # ---- links --------------------------------------------------------------------------------

    def _open_link(self, query: str, request: gr.Request) -> Update:
        parts = self.parts
        try:
            link = read_link(query)
            if link is None:
                return {self.press: ""}
            if not link.example:
                said = _wants(link)
                return {self.note: said, self.wanted: link, self.press: "", **self._asked(link)}
            example = self.examples.find(link.example)
            file = photo.in_cache(example.image)
            opened = photo.open_photo(file, self.settings)
        except (QvlaError, OSError) as error:
            said = str(error) if isinstance(error, QvlaError) else "Its example is missing here."
            return {self.note: _problem(said), self.press: ""}
        references = "\n".join(example.references)
        return {
            **self.dropped(link.panes, request, None),
            **self._asked(link),
            parts.photo: photo.shown(file, opened),
            parts.chosen: file,
            parts.references: references,
            parts.filled: references,
            self.press: "now",
        }

    def _brought(self, chosen: FileData | None, wanted: Link | None) -> Update:
        if wanted is None or chosen is None:
            return {self.press: ""}
        if digest_of(chosen.path) != wanted.photo:
            return {self.press: "", self.note: _wants(wanted, other=True)}
        return {self.press: "now", self.note: "", self.wanted: None}

    def _asked(self, link: Link) -> Update:
        return self._set(link.panes, link.decoding)

    def _set(self, names: Any, decoding: tuple[Any, ...]) -> Update:
        """Who answers and how, as far as they are there."""
        able = {one.name for one in offers(self.choice.loader) if not one.reason}
        seats = tuple(name for name in names if name in able)
        seats = seats if len(seats) >= LEAST else ()
        controls = dict(zip(self.decoding, decoding, strict=True))
        return {self.choice.chosen: seats, **self.choice.show(seats), **controls}


def _entry(asked: Any, visited: tuple[Comparison, ...]) -> Comparison:
    key = asked.get("key") if isinstance(asked, dict) else None
    found = next((one for one in visited if one.key and one.key == key), None)
    if found is None:
        raise gr.Error("There is no such comparison any more.", print_exception=False)
    return found


def _small(entry: Comparison) -> Image.Image:
    try:
        content = base64.b64decode(entry.thumbnail.partition(",")[2], validate=True)
        return open_image(content, max_pixels=HISTORY_PIXELS**2)
    except (QvlaError, ValueError) as error:
        raise gr.Error("There is no picture of this photo any more.") from error


def _controls(entry: Comparison) -> tuple[Any, ...]:
    """In the order of `DecodingControls`. What a browser kept may be anything."""
    link = Link()
    try:
        told = {name: value for name, value in entry.decoding.items() if value is not None}
        link = Link(**{**told, "seed": str(told.get("seed", ""))})
    except ValueError:
        pass
    return link.decoding


def _wants(link: Link, *, other: bool = False) -> str:
    named = f"the photo <b>{escape(link.name)}</b>" if link.name else "a photo"
    said = "That is another photo. " if other else ""
    return (
        f'<p class="notice" role="status">{said}This link is about {named}, whose SHA-256 begins '
        f"with <code>{link.photo[:12]}</code>: bring it, and it is compared in the same way.</p>"
    )


def _problem(said: str) -> str:
    return f'<p class="photo-problem" role="alert">{escape(said)}</p>'
