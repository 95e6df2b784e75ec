"""How full the page's queue is. Gradio tells nobody in words, so it is read here, and only here."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

CAPTIONS = "captions"  # what asks the contenders has its turns by this name


@dataclass(frozen=True)
class QueueState:
    """`waiting` counts whatever the page has in its queue, `running` those who are answered now;
    `most` may wait.
    """

    waiting: int
    running: int
    most: int | None

    @property
    def full(self) -> bool:
        return self.most is not None and self.waiting >= self.most


def queue_state(page: gr.Blocks) -> QueueState:
    queue = page._queue
    captions = queue.event_queue_per_concurrency_id.get(CAPTIONS)
    running = 0 if captions is None else captions.current_concurrency
    return QueueState(len(queue), running, queue.max_size)
