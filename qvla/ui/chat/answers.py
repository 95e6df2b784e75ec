"""What a request is answered with: OpenAI's chat completion, whole or in chunks, and models."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

from qvla.ui.chat.errors import ChatError, as_body

OWNER = "qvla"
DONE = "data: [DONE]\n\n"


@dataclass(frozen=True)
class Said:
    """What there is of an answer so far; `prompt_tokens` count those of the photo too."""

    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    done: bool = False


@dataclass
class Answer:
    """One answer on its way to a client. `longest` is the number of tokens it may have."""

    model: str
    longest: int
    made: int = field(default_factory=lambda: int(time.time()))
    name: str = field(default_factory=lambda: f"chatcmpl-{token_hex(12)}")
    sent: str = ""

    def whole(self, said: Said) -> dict[str, Any]:
        """The chat completion."""
        message = {"role": "assistant", "content": said.text, "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": self._end(said),
        }
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage(said)}

    def opening(self) -> str:
        """The first chunk, which says who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def next(self, said: Said) -> str:
        """The chunk of what is new; empty when nothing is. Letters that are half there wait."""
        text = said.text if said.done else said.text.rstrip("\N{REPLACEMENT CHARACTER}")
        if not text.startswith(self.sent) or text == self.sent:
            return ""
        new, self.sent = text[len(self.sent) :], text
        return self._chunk({"content": new})

    def closing(self, said: Said, *, with_usage: bool) -> str:
        """The last chunks: why it ended, what it took where that was asked for, and the end."""
        last = self._chunk({}, self._end(said))
        counts = {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(said)}
        return last + (event(counts) if with_usage else "") + DONE

    def _end(self, said: Said) -> str:
        return "length" if said.tokens >= self.longest else "stop"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.name, "object": kind, "created": self.made, "model": self.model}

    def _chunk(self, delta: dict[str, Any], end: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": end}
        return event({**self._head("chat.completion.chunk"), "choices": [choice]})


def usage(said: Said) -> dict[str, int]:
    return {
        "prompt_tokens": said.prompt_tokens,
        "completion_tokens": said.tokens,
        "total_tokens": said.prompt_tokens + said.tokens,
    }


def event(value: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(value)}\n\n"


def fault(error: ChatError) -> str:
    """The event with which a stream ends that has begun and cannot go on."""
    return event(as_body(error))


def model(name: str, since: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": since, "owned_by": OWNER}


def models(names: Sequence[str], since: int) -> dict[str, Any]:
    return {"object": "list", "data": [model(name, since) for name in names]}
