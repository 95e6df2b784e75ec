"""What the browser keeps of a visit comes back with a reload; a first visit has an example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gradio as gr

from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.settings import Settings
from qvla.ui.compare import comparison, photo
from qvla.ui.compare.choice import PaneChoice
from qvla.ui.compare.history_panel import HistoryPanel
from qvla.ui.compare.kept import kept, read_kept
from qvla.ui.compare.offers import answering, checked, panes_of
from qvla.ui.compare.opening import opening
from qvla.ui.panes import Pane
from qvla.ui.photo_folder import PhotoFolder

STORAGE_KEY = "qvla-visit"  # in the browser; as secret too, since it keeps nothing from its owner
PANES_IN_LINK = "panes"  # in the address of the page, such as ?panes=base,qvla
# Once the page shows what it opens with, and before whatever would take the place of that.
OPENED = "() => window.qvlaOpen()"
ONCE_OPENED = "async (...values) => { await window.qvlaOpened; return values; }"
PHOTO_GONE = "The photo is no longer on the server: choose it again to compare it."
Update = dict[Any, Any]


class Shown(NamedTuple):
    """The components that hold what a visit looks at."""

    photo: photo.PhotoInput
    chosen: gr.State  # the photo's FileData
    references: gr.Textbox
    filled: gr.State
    panes: gr.HTML
    shown: gr.State


class VisitKeeping:
    """Fills the components of a visit when a page is opened, and has the browser keep them."""

    def __init__(
        self,
        settings: Settings,
        loader: LineupLoader,
        examples: PhotoFolder,
        parts: Shown,
        history: HistoryPanel,
        choice: PaneChoice,
        told: Callable[[tuple[Pane, ...]], Update],
    ) -> None:
        """`told` gives the updates that show panes."""
        self.settings, self.loader, self.examples = settings, loader, examples
        self.parts, self.history, self.choice, self.told = parts, history, choice, told
        self.store = gr.BrowserState(None, storage_key=STORAGE_KEY, secret=STORAGE_KEY)

    def wire(self, page: gr.Blocks) -> Any:
        """Returns the event after which the page shows what was kept."""
        restored = page.load(
            self._restore,
            inputs=[self.store],
            outputs=[*self.parts, self.choice.chosen, *self.history.outputs],
            queue=False,
            show_progress="hidden",
            api_name="restore_visit",
            api_visibility="undocumented",
        )
        restored.then(None, js=OPENED)
        return restored

    def after(self, event: Any, name: str) -> None:
        """Has the browser keep the visit as it is after this event."""
        parts = self.parts
        event.then(
            kept,
            inputs=[
                *(parts.chosen, parts.references, parts.filled, parts.shown),
                *(self.history.visited, self.choice.chosen),
            ],
            outputs=[self.store],
            queue=False,
            show_progress="hidden",
            api_name=f"keep_after_{name}",
            api_visibility="undocumented",
        )

    def _linked(self, request: gr.Request) -> tuple[str, ...]:
        """The panes that the address of the page names; none where it names some that cannot be."""
        names = str(request.query_params.get(PANES_IN_LINK, ""))
        try:
            return checked(names.split(","), self.loader)
        except QvlaError:
            return ()

    def _restore(self, value: Any, request: gr.Request) -> Update:
        visit, parts, linked = read_kept(value), self.parts, self._linked(request)
        if visit is None:
            return {**self._open(linked), self.choice.chosen: linked}
        updates = {
            parts.references: visit.references,
            parts.filled: visit.filled,
            self.choice.chosen: linked or visit.chosen_panes,
            **self.history.show(visit.visited),
        }
        if visit.panes and linked:
            before = {pane.name: pane for pane in visit.panes}
            seats = panes_of(self.loader, linked)
            updates |= self.told(tuple(before.get(pane.name, pane) for pane in seats))
        elif visit.panes:
            updates |= self.told(visit.panes)
        file = visit.photo and visit.photo.file()
        if visit.photo is None:
            return updates
        try:
            if file is None:
                raise QvlaError(PHOTO_GONE)
            opened = photo.open_photo(file, self.settings)
        except QvlaError as error:
            return {**updates, parts.photo: photo.refused(str(error), None)}
        return {**updates, parts.photo: photo.shown(file, opened), parts.chosen: file}

    def _open(self, seats: tuple[str, ...]) -> Update:
        """A first visit: the first example with the captions that are on record for it."""
        parts = self.parts
        first = comparison.planned(self.loader, answering(self.loader, seats))
        found = opening(self.settings, first, self.examples)
        if found is None:
            return {parts.filled: gr.skip()}
        example, panes = found
        references = "\n".join(example.references)
        try:
            file = photo.in_cache(example.image)
            opened = photo.open_photo(file, self.settings)
        except QvlaError:
            return {parts.filled: gr.skip()}
        return {
            parts.photo: photo.shown(file, opened),
            parts.chosen: file,
            parts.references: references,
            parts.filled: references,
            **self.told(comparison.score(panes, example.references)),
        }
