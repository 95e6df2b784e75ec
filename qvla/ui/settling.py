"""When a form that answers as it changes has a new value that is meant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gradio as gr

# A field that is left may not have told the page its last letters yet.
SETTLE = "() => new Promise((done) => setTimeout(done, 100))"


def changes(fields: Iterable[Any]) -> list[Any]:
    """The events to answer to: with what is typed, when the field is left or Enter is pressed, not
    at every letter.
    """
    events = []
    for one in fields:
        typed = isinstance(one, (gr.Textbox, gr.Number))
        events += [one.blur, one.submit] if typed else [one.input]
    return events
