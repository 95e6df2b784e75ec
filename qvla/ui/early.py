"""A script that runs before Gradio's own: what Gradio is given as `head` comes when it runs."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qvla.settings import ASSETS

SCRIPT = (ASSETS / "ui" / "early.js").read_text(encoding="utf-8")
HEAD = b"<head>"
OF_THE_PAGE = b"window.gradio_config"


class EarlyScript:
    """Puts `assets/ui/early.js` first into the page; every other answer passes as it is."""

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
            if OF_THE_PAGE in text:
                script = f"{HEAD.decode()}<script>{SCRIPT}</script>".encode()
                text = text.replace(HEAD, script, 1)
                start = {**start, "headers": _with_length(start, len(text))}
            await send(start)
            await send({**message, "body": text})

        await self.app(scope, receive, pass_on)


def _is_html(message: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/html")
        for name, value in message["headers"]
    )


def _with_length(message: Message, length: int) -> list[tuple[bytes, bytes]]:
    others = [(n, v) for n, v in message["headers"] if n.lower() != b"content-length"]
    return [*others, (b"content-length", str(length).encode())]
