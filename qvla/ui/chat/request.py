"""A chat request to what the engine is asked: who answers, the prompt, the photo, the decoding."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from qvla.files import parse_json
from qvla.ui.chat.errors import ChatError

LONGEST_TEXT = 2000  # letters of a question
DATA_URL = re.compile(r"data:[\w.+/-]*;base64,")
ENVELOPE_BYTES = 2**16  # of a request beside its photo
# What a client may ask for and gets from no contender, with the values that ask for nothing.
WITHOUT = {
    "n": (1,),
    "stop": ([],),
    "tools": ([],),
    "functions": ([],),
    "logprobs": (False,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}


class _ImageUrl(BaseModel):
    url: str


class _Text(BaseModel):
    type: Literal["text"]
    text: str


class _Image(BaseModel):
    type: Literal["image_url"]
    image_url: _ImageUrl


Part = Annotated[_Text | _Image, Field(discriminator="type")]


class _Message(BaseModel):
    role: Literal["system", "developer", "user"]
    content: str | list[Part]


class _StreamOptions(BaseModel):
    include_usage: bool | None = None


class _Body(BaseModel):
    """What is read of a request; clients send null for what they leave out."""

    model: str
    messages: list[_Message] = Field(min_length=1)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Asked:
    """One question: `photo` is the file as it was sent, `options` are arguments of `Decoding`."""

    model: str
    text: str
    photo: bytes
    options: dict[str, Any]
    stream: bool
    include_usage: bool


def largest_body(max_upload_bytes: int) -> int:
    """Bytes of the largest request: a photo in base64, and what is around it."""
    return max_upload_bytes * 4 // 3 + ENVELOPE_BYTES


def read_request(raw: bytes, max_upload_bytes: int) -> Asked:
    """A request's body, read. Raises ChatError with a status of 400 or 413."""
    try:
        given = parse_json(raw)
    except ValueError as error:
        raise ChatError("The request is not JSON: send one object.") from error
    if not isinstance(given, dict):
        raise ChatError("The request must be one JSON object.")
    for name, harmless in WITHOUT.items():
        if given.get(name) is not None and given[name] not in harmless:
            raise ChatError(f"No contender can answer with {name}: leave it out.", param=name)
    try:
        body = _Body.model_validate(given)
    except ValidationError as error:
        raise _unreadable(error) from error
    text, photo = _asked(body.messages, max_upload_bytes)
    return Asked(
        body.model,
        text,
        photo,
        _options(body),
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
    )


def _options(body: _Body) -> dict[str, Any]:
    """Arguments of `Decoding`, whose defaults hold for what is left out: greedy, not sampled."""
    from qvla.captioning.decoding import LONGEST  # here, because it imports PyTorch

    longest = body.max_completion_tokens or body.max_tokens
    given = {
        # An upper bound that is higher than ours is kept to by ours.
        "max_new_tokens": None if longest is None else min(longest, LONGEST),
        "temperature": body.temperature,
        "top_p": body.top_p,
        "seed": body.seed,
    }
    return {name: value for name, value in given.items() if value is not None}


def _asked(messages: list[_Message], max_upload_bytes: int) -> tuple[str, bytes]:
    """The text and photo of the one user message. What the system's say, no contender is told."""
    spoken = [message for message in messages if message.role == "user"]
    if len(spoken) != 1:
        raise ChatError(
            "Each request is one question: send one user message, without those before it.",
            param="messages",
        )
    content = spoken[0].content
    parts = [_Text(type="text", text=content)] if isinstance(content, str) else content
    text = "\n".join(part.text for part in parts if isinstance(part, _Text)).strip()
    photos = [part.image_url.url for part in parts if isinstance(part, _Image)]
    if len(text) > LONGEST_TEXT:
        raise ChatError(
            f"The text may have {LONGEST_TEXT:,} letters: shorten it.", param="messages"
        )
    if len(photos) != 1:
        raise ChatError(
            f"Send one photo, as an image_url with a data URL; {len(photos)} came.",
            param="messages",
        )
    return text, _file(photos[0], max_upload_bytes)


def _file(url: str, max_upload_bytes: int) -> bytes:
    start = DATA_URL.match(url)
    if start is None:
        raise ChatError(
            "Send the photo itself as a data URL in base64 (data:image/jpeg;base64,…): addresses "
            "are not fetched.",
            param="messages",
        )
    if (len(url) - start.end()) * 3 // 4 > max_upload_bytes + 2:  # with at most two of padding
        raise too_large(max_upload_bytes)
    try:
        photo = base64.b64decode(url[start.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ChatError(
            "The photo's data URL is not whole base64: send it again.", param="messages"
        ) from error
    if len(photo) > max_upload_bytes:
        raise too_large(max_upload_bytes)
    return photo


def too_large(max_upload_bytes: int) -> ChatError:
    return ChatError(
        f"The photo is larger than the {max_upload_bytes // 2**20} MB allowed: send a smaller one.",
        413,
        param="messages",
    )


def _unreadable(error: ValidationError) -> ChatError:
    """Of the first thing that is wrong, without what was sent: that may be a photo."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    param = str(first["loc"][0]) if first["loc"] else ""
    if first["loc"][-1:] == ("role",):
        return ChatError(
            f"{place}: only user messages are answered, and only system messages may stand beside.",
            param=param,
        )
    message = first["msg"].rstrip(".")
    return ChatError(f"{place}: {message[:1].lower()}{message[1:]}.", param=param)
