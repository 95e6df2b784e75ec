"""Work that no page has asked for, in the page's own queue: with its length, turns and order.

Gradio's queue runs events of a page alone. So there is one hidden event, whose input is a ticket:
when its turn has come, it does what waits under that ticket, and nothing when nobody waits there
any longer.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import gradio as gr
from fastapi import Request
from gradio.data_classes import PredictBodyInternal

from qvla.settings import Settings
from qvla.ui.chat.errors import ChatError
from qvla.ui.queue_state import CAPTIONS, queue_state

EVENT = "take_a_turn"
FULL = "As many requests wait as may: try again in a moment."


class Turns:
    """Made before the page, which calls `lay_out`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._waiting: dict[str, Callable[[], None]] = {}
        self._session = secrets.token_urlsafe(16)  # of Gradio's, one for all

    def lay_out(self) -> None:
        """Puts the hidden event into the open page, beside the comparisons."""
        gr.Button(visible=False).click(
            self._take,
            inputs=[gr.Textbox(visible=False, label="Ticket")],
            api_name=EVENT,
            api_visibility="private",
            show_progress="hidden",
            concurrency_limit=self._settings.concurrency,
            concurrency_id=CAPTIONS,
        )

    def check(self, request: Request) -> None:
        """Raises ChatError with 429 when the queue is full already."""
        if queue_state(request.app.get_blocks()).full:
            raise ChatError(FULL, 429, code="queue_full")

    @asynccontextmanager
    async def turn(self, request: Request, work: Callable[[], None]) -> AsyncIterator[None]:
        """Within it `work` waits for its turn, or runs in a thread; behind it, it waits no longer.

        Raises ChatError with 429 when the queue is full.
        """
        blocks = request.app.get_blocks()
        queue = blocks._queue
        ticket = secrets.token_urlsafe(16)
        self._waiting[ticket] = work
        # Nobody reads what Gradio tells of the event: a new place for it, or the old would grow.
        queue.pending_messages_per_session[self._session] = asyncio.Queue()
        number = next(key for key, fn in blocks.fns.items() if fn.api_name == EVENT)
        # Gradio reads from the path how a page has reached the queue.
        joined = Request({**request.scope, "path": "/gradio_api/queue/join"})
        body = PredictBodyInternal(
            data=[ticket], fn_index=number, session_hash=self._session, request=joined
        )
        event = ""
        try:
            taken, event, why = await queue.push(body=body, request=joined, username=None)
            if not taken:
                full = ChatError(FULL, 429, code="queue_full")
                raise (
                    full
                    if why == "queue_full"
                    else ChatError(
                        "The queue does not take requests now: try again in a moment.", 503
                    )
                )
            yield
        finally:
            self._waiting.pop(ticket, None)
            await queue.clean_events(event_id=event)
            queue.pending_event_ids_session.get(self._session, set()).discard(event)

    def _take(self, ticket: str) -> None:
        work = self._waiting.pop(ticket, None)
        if work is not None:
            work()
