"""A vision endpoint of the tests' own, over real HTTP, which knows keys, quotas and bad days."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.servers import http_server

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}
EXPECTED = {"3.png": "blue", "4c/1.png": "red", "4c/2, too.jpg": "green"}


def coloured_photos(folder: Path) -> Path:
    """Three photos, two of them in a folder within, which the server knows by their colours."""
    for name, colour in EXPECTED.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 32), COLOURS[colour]).save(folder / name)
    return folder


@dataclass(frozen=True)
class Request:
    """One request as it came in."""

    key: str
    question: str
    photo: Image.Image
    body: dict[str, Any]


Reply = Callable[["Handler", Request], None]


@dataclass
class VisionServer:
    """`quotas` are how many answers a key is good for; keys without one are not known.

    `script` holds what the next requests meet instead of an answer, in order.
    """

    quotas: dict[str, int]
    script: list[Reply] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)  # by key
    address: str = ""
    closing: threading.Event = field(default_factory=threading.Event)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    mine: VisionServer  # set for each server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        user = next(one for one in body["messages"] if one["role"] == "user")
        text, image = user["content"]
        file = base64.b64decode(image["image_url"]["url"].partition("base64,")[2], validate=True)
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        request = Request(key, text["text"], Image.open(io.BytesIO(file)), body)
        self.mine.requests.append(request)
        if self.mine.script:
            self.mine.script.pop(0)(self, request)
        elif key not in self.mine.quotas:
            self.fail(401, f"Incorrect API key provided: {key}", code="invalid_api_key")
        elif self.mine.answered[key] >= self.mine.quotas[key]:
            self.fail(429, "You exceeded your quota", code="insufficient_quota")
        else:
            self.mine.answered[key] += 1
            self.answer(f' "{colour_of(request.photo)}." ')

    def answer(self, said: str | None) -> None:
        choice = {"index": 0, "message": {"role": "assistant", "content": said}}
        self.send(200, {"object": "chat.completion", "choices": [choice]})

    def fail(self, status: int, message: str, code: str = "", **headers: str) -> None:
        self.send(status, {"error": {"message": message, "type": code, "code": code}}, headers)

    def send(
        self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


def colour_of(photo: Image.Image) -> str:
    """The strongest channel of a photo's mean, which JPEG and resizing leave as it is."""
    means = photo.convert("RGB").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    return list(COLOURS)[means.index(max(means))]


def failing(status: int, message: str = "no", code: str = "", **headers: str) -> Reply:
    return lambda handler, _: handler.fail(status, message, code, **headers)


def saying(said: str | None) -> Reply:
    return lambda handler, _: handler.answer(said)


def half(handler: Handler, _: Request) -> None:
    """Half of an answer, then the end of the connection."""
    handler.send_response(200)
    handler.send_header("Content-Length", "200")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"message": {"cont')
    handler.close_connection = True


def half_json(handler: Handler, _: Request) -> None:
    """All of an answer, which is half of one."""
    content = b'{"choices": [{"message": {"cont'
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def silent(handler: Handler, _: Request) -> None:
    """Nothing, for as long as the server runs."""
    handler.mine.closing.wait()
    handler.close_connection = True


@contextmanager
def vision_server(**quotas: int) -> Iterator[VisionServer]:
    mine = VisionServer(quotas)
    handler = type("Mine", (Handler,), {"mine": mine})
    with http_server(handler) as address:
        mine.address = f"{address}/v1"
        try:
            yield mine
        finally:
            mine.closing.set()
