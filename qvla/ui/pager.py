"""The controls of something that has pages: which one, the one before and the one after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

Handler = Callable[..., dict[Any, Any]]


class Pager:
    """Laid out where it is made. `name` is for ids and events."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.number = gr.Number(
            1, label="Page", precision=0, minimum=1, min_width=90, elem_id=f"{name}-page"
        )
        self.previous = gr.Button("Previous", size="sm", min_width=90, interactive=False)
        self.next = gr.Button("Next", size="sm", min_width=90, interactive=False)

    @property
    def outputs(self) -> list[Any]:
        return [self.number, self.previous, self.next]

    def wire(self, show: Handler, inputs: list[Any], outputs: list[Any]) -> None:
        """`show` is given the values of `inputs` and the number of the page to show."""

        def turn(step: int) -> Handler:
            def turned(*values: Any) -> dict[Any, Any]:
                *options, number = values
                return show(*options, int(number or 1) + step)

            return turned

        for trigger, step, name in (
            (self.previous.click, -1, "previous"),
            (self.next.click, 1, "next"),
            (self.number.submit, 0, "page"),
        ):
            trigger(
                turn(step),
                inputs=[*inputs, self.number],
                outputs=[*outputs, *self.outputs],
                api_name=f"{self.name}_{name}",
                api_visibility="undocumented",
                show_progress="hidden",
            )

    def show(self, number: int, pages: int) -> dict[Any, Any]:
        """The updates for this page of so many; what leads nowhere cannot be pressed."""
        return {
            self.number: gr.Number(number, interactive=pages > 1),
            self.previous: gr.Button(interactive=number > 1),
            self.next: gr.Button(interactive=number < pages),
        }
