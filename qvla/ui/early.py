"""The page as it goes out: a script before Gradio's own, and the whole of it compressed.

What Gradio is given as `head` comes when its own script runs; and it compresses files, but not the
page, which is its greatest part by far.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qvla.settings import ASSETS

SCRIPT = (ASSETS / "ui" / "early.js").read_text(encoding="utf-8")
HEAD = b"<head>"
OF_THE_PAGE = b"window.gradio_config"
LEVEL = 5  # of gzip's 9: some 15 ms for a page of 1 MB


class EarlyScript:
    """Puts `assets/ui/early.js` first into the page, and compresses it for who takes that; every
    other answer passes as it is.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message | None = None  # of an answer in HTML, until its text is whole
        text = b""

        async def pass_on(message: Message) -> None:
            nonlocal start, text
            if message["type"] == "http.response.start" and _is_html(message):
                start = message
                return
            if start is None or message["type"] != "http.response.body":
                await send(message)
                return
            text += message.get("body", b"")
            if message.get("more_body"):
                return
            if OF_THE_PAGE in text and "content-encoding" not in Headers(raw=start["headers"]):
                script = f"{HEAD.decode()}<script>{SCRIPT}</script>".encode()
                text = text.replace(HEAD, script, 1)
                text = _packed(text, Headers(scope=scope), MutableHeaders(raw=start["headers"]))
            await send(start)
            await send({**message, "body": text})

        await self.app(scope, receive, pass_on)


def _is_html(message: Message) -> bool:
    return Headers(raw=message["headers"]).get("content-type", "").startswith("text/html")


def _packed(text: bytes, asked: Mapping[str, str], told: MutableHeaders) -> bytes:
    """The body to send; writes into the headers `told` what it is."""
    told.add_vary_header("Accept-Encoding")
    if "gzip" in asked.get("accept-encoding", ""):
        told["content-encoding"] = "gzip"
        text = gzip.compress(text, LEVEL)
    told["content-length"] = str(len(text))
    return text
