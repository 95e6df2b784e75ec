"""The choosing of panes: a group of ticks in an accordion, and why some cannot be had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import gradio as gr

from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.ui.compare.offers import LEAST, MOST, answering, checked, offers, panes_of, with_pane
from qvla.ui.panes import CAPTIONS, Manner, Pane, no_badge, render_panes

Update = dict[Any, Any]

INFO = (
    f"{LEAST} to {MOST}, in the order in which you tick them; this browser and the address of the "
    "page keep your choice."
)


class PaneChoice:
    """Lays itself out where it is made. `chosen` holds the names, empty for the default."""

    def __init__(
        self,
        loader: LineupLoader,
        manner: Manner = CAPTIONS,
        badge: Callable[[Pane], str] = no_badge,
    ) -> None:
        self.loader, self.manner, self.badge = loader, manner, badge
        self.chosen = gr.State(())
        is_open, ticks, note = self._parts(())
        with gr.Accordion(
            "Panes", open=False, visible=is_open, elem_id=f"{manner.ids}-choice"
        ) as self.box:
            self.names = gr.CheckboxGroup(
                **ticks, label="Who answers", info=INFO, elem_id=f"{manner.ids}-names"
            )
            self.note = gr.HTML(
                note,
                elem_id=f"{manner.ids}-note",
                elem_classes="pane-note",
                label="What cannot be chosen",
            )

    @property
    def outputs(self) -> list[Any]:
        return [self.box, self.names, self.note]

    def show(self, chosen: Sequence[str]) -> Update:
        """The offers as they are now, with these ticked."""
        is_open, ticks, note = self._parts(chosen)
        return {
            self.box: gr.Accordion(visible=is_open),
            self.names: gr.CheckboxGroup(**ticks),
            self.note: note,
        }

    def wire(self, panes: gr.HTML, shown: gr.State, is_busy: Callable[[gr.Request], bool]) -> Any:
        """Captions that are there stay; returns the event. What runs is left as it is."""
        self._panes, self._shown, self._is_busy = panes, shown, is_busy

        def choose(names: Any, now: tuple[Pane, ...], request: gr.Request) -> Update:
            try:
                chosen = checked(names, self.loader)
            except QvlaError as error:
                said = f'<p class="problem" role="alert">{escape(str(error))}</p>'
                return {self.note: said + self._note()}
            return {self.note: self._note(), **self._seat(chosen, now, request)}

        return self.names.input(
            choose,
            inputs=[self.names, shown],
            outputs=[self.chosen, self.note, panes, shown],
            queue=False,
            show_progress="hidden",
            trigger_mode="always_last",
            api_name=f"choose_{self.manner.ids}s".replace("-", "_"),
            api_visibility="undocumented",
        )

    def open_on(self, event: Any, name: Any, api_name: str) -> Any:
        """Has an event from elsewhere open the pane that the component `name` holds the name of,
        beside those that are shown; returns the event. Call it after `wire`.
        """

        def opened(
            name: Any, chosen: tuple[str, ...], now: tuple[Pane, ...], request: gr.Request
        ) -> Update:
            try:
                seats = with_pane(self.loader, chosen, str(name))
            except QvlaError as error:
                raise gr.Error(str(error), print_exception=False) from error
            return {**self.show(seats), **self._seat(seats, now, request)}

        return event(
            opened,
            inputs=[name, self.chosen, self._shown],
            outputs=[self.chosen, *self.outputs, self._panes, self._shown],
            queue=False,
            show_progress="hidden",
            api_name=api_name,
            api_visibility="undocumented",
        )

    def _seat(self, chosen: tuple[str, ...], now: tuple[Pane, ...], request: gr.Request) -> Update:
        """Who was chosen, and their panes, with the captions that are there of them."""
        if self._is_busy(request):
            return {self.chosen: chosen}
        before = {pane.name: pane for pane in now}
        new = tuple(before.get(one.name, one) for one in panes_of(self.loader, chosen, self.manner))
        shown = render_panes(new, self.manner, self.badge)
        return {self.chosen: chosen, self._panes: shown, self._shown: new}

    def _parts(self, chosen: Sequence[str]) -> tuple[bool, dict[str, Any], str]:
        """Whether there is a choice, the ticks, and the note below them."""
        able = [one for one in offers(self.loader) if not one.reason]
        choices = [
            (f"{one.title} (task of the bank)" if one.of_bank else one.title, one.name)
            for one in able
        ]
        names = {name for _, name in choices}
        ticked = [name for name in answering(self.loader, chosen) if name in names]
        return len(able) > LEAST, {"choices": choices, "value": ticked}, self._note()

    def _note(self) -> str:
        unable = "".join(
            f"<li><b>{escape(one.title)}</b> cannot be chosen. {escape(one.reason)}</li>"
            for one in offers(self.loader)
            if one.reason
        )
        return f'<ul class="unable">{unable}</ul>' if unable else ""
