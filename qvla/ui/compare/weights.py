"""The banner's place on the page: it follows the loading of the weights and offers to try again."""

from __future__ import annotations

from typing import Any

import gradio as gr

from qvla.captioning.loader import LineupLoader, Phase
from qvla.settings import Settings
from qvla.ui.banner import render_banner
from qvla.ui.compare import comparison
from qvla.ui.panes import IDLE, Pane, PaneState, idle_panes, render_panes

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

    def wire(self, restored: Any, panes: gr.HTML, shown: gr.State) -> None:
        """Idle panes get the identity of who will answer in them as soon as it is known.

        `restored` is the event after which the page shows what the browser had kept.
        """

        def refresh(now: tuple[Pane, ...]) -> dict[Any, Any]:
            update = self._show()
            ready = self.loader.state().phase is Phase.READY
            if ready and all(pane.state is PaneState.IDLE for pane in now):
                idle = self.idle_panes()
                update |= {panes: render_panes(idle), shown: idle}
            return update

        for event, name in ((restored.then, "status_on_load"), (self.timer.tick, "status")):
            event(
                refresh,
                inputs=[shown],
                outputs=[self.banner, self.retry, self.timer, panes, shown],
                queue=False,
                show_progress="hidden",
                api_name=name,
                api_visibility="undocumented",
            )
        self.retry.click(
            self._retry,
            outputs=[self.banner, self.retry, self.timer],
            show_progress="hidden",
            api_name="retry_loading",
            api_visibility="undocumented",
        )

    def idle_panes(self) -> tuple[Pane, ...]:
        if self.loader.lineup is None:
            return idle_panes(self.loader.contenders)
        return comparison.lineup_panes(self.loader.lineup, PaneState.IDLE, IDLE)

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
