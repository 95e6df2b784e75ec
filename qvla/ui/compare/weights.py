"""The banner's place on the page: it follows the loading of the weights and offers to try again."""

from __future__ import annotations

from typing import Any

import gradio as gr

from qvla.captioning.loader import LineupLoader, Phase
from qvla.settings import Settings
from qvla.ui.banner import render_banner
from qvla.ui.compare.choice import PaneChoice
from qvla.ui.compare.offers import panes_of
from qvla.ui.panes import Pane, PaneState, render_panes

POLL_SECONDS = 0.7


class WeightsPanel:
    """Asks the loader again and again until the weights are there or have failed to come."""

    def __init__(self, settings: Settings, loader: LineupLoader) -> None:
        self.settings = settings
        self.loader = loader
        self.timer = gr.Timer(POLL_SECONDS, active=False)
        with gr.Row(elem_classes="banner-row"):
            self.banner = gr.HTML(render_banner(settings, loader), elem_id="banner", label="Banner")
            self.retry = gr.Button("Try again", visible=False, size="sm", elem_id="retry")

    def wire(self, restored: Any, panes: gr.HTML, shown: gr.State, choice: PaneChoice) -> Any:
        """Idle panes get the identity of who will answer in them as soon as it is known, and the
        choice of panes who there is.

        `restored` is the event after which the page shows what the browser had kept; returns the
        one after which it shows who there is.
        """

        def refresh(now: tuple[Pane, ...], chosen: tuple[str, ...]) -> dict[Any, Any]:
            update = self._show()
            if self.loader.state().phase is Phase.LOADING:
                return update
            update |= choice.show(chosen)
            if all(pane.state is PaneState.IDLE for pane in now):
                idle = panes_of(self.loader, chosen)
                update |= {panes: render_panes(idle, badge=choice.badge), shown: idle}
            return update

        def opened(now: tuple[Pane, ...], chosen: tuple[str, ...]) -> dict[Any, Any]:
            return {**choice.show(chosen), **refresh(now, chosen)}

        filled = []
        for event, handler, name in (
            (restored.then, opened, "status_on_load"),
            (self.timer.tick, refresh, "status"),
        ):
            asked = event(
                handler,
                inputs=[shown, choice.chosen],
                outputs=[self.banner, self.retry, self.timer, panes, shown, *choice.outputs],
                queue=False,
                show_progress="hidden",
                api_name=name,
                api_visibility="undocumented",
            )
            filled.append(asked)
        self.retry.click(
            self._retry,
            outputs=[self.banner, self.retry, self.timer],
            show_progress="hidden",
            api_name="retry_loading",
            api_visibility="undocumented",
        )
        return filled[0]

    def _show(self) -> dict[Any, Any]:
        phase = self.loader.state().phase
        return {
            self.banner: render_banner(self.settings, self.loader),
            self.retry: gr.Button(visible=phase is Phase.FAILED),
            self.timer: gr.Timer(active=phase is Phase.LOADING),
        }

    def _retry(self) -> dict[Any, Any]:
        self.loader.start()
        return self._show()
