"""`/v1/models` and `/v1/chat/completions` beside the page, for OpenAI's clients and their like.

    client = OpenAI(base_url="http://127.0.0.1:7860/v1", api_key="none")
    client.chat.completions.create(model="qvla", messages=[{"role": "user", "content": [
        {"type": "text", "text": "is there a river?"},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,…"}}]}])

A request waits in the page's own queue, and is given up when its client leaves. Off unless
`QVLA_OPENAI_API=on`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from functools import wraps

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from qvla.captioning.loader import LineupLoader
from qvla.errors import QvlaError
from qvla.settings import Settings
from qvla.ui.chat.answers import Answer, Said, fault, model, models
from qvla.ui.chat.errors import ChatError, as_body
from qvla.ui.chat.request import Asked, largest_body, read_request, too_large
from qvla.ui.chat.speaking import decoding_of, lineup_with, loaded, speak
from qvla.ui.chat.turns import Turns

log = logging.getLogger(__name__)

POLL_SECONDS = 0.3  # between looks at whether a client that waits is still there
UNFORESEEN = "The answer failed for a reason that stands in the app's log; try another photo."
Handler = Callable[["ChatApi", Request], Awaitable[Response]]


def _answering(handler: Handler) -> Callable[[ChatApi, Request], Awaitable[Response]]:
    """Has the key checked first, and turns what is raised into OpenAI's JSON."""

    @wraps(handler)
    async def answered(self: ChatApi, request: Request) -> Response:
        try:
            self._check_key(request)
            return await handler(self, request)
        except ChatError as error:
            return JSONResponse(as_body(error), error.status, error.headers)

    return answered


class ChatApi:
    """What the app answers beside its page; `lay_out` belongs into the page, `routes` beside it."""

    def __init__(self, settings: Settings, loader: LineupLoader) -> None:
        self._settings = settings
        self._loader = loader
        self._turns = Turns(settings)
        self._since = int(time.time())

    def lay_out(self) -> None:
        self._turns.lay_out()

    def routes(self) -> list[Route]:
        return [
            Route("/v1/models", self._list, methods=["GET"]),
            Route("/v1/models/{name}", self._one, methods=["GET"]),
            Route("/v1/chat/completions", self._complete, methods=["POST"]),
        ]

    @_answering
    async def _list(self, request: Request) -> Response:
        return JSONResponse(models(await run_in_threadpool(self._names), self._since))

    @_answering
    async def _one(self, request: Request) -> Response:
        name = request.path_params["name"]
        await run_in_threadpool(lineup_with, self._loader, name)
        return JSONResponse(model(name, self._since))

    @_answering
    async def _complete(self, request: Request) -> Response:
        loaded(self._loader)
        self._turns.check(request)  # before a photo is read that would be refused
        raw = await self._body(request)
        asked = await run_in_threadpool(read_request, raw, self._settings.max_upload_bytes)
        states = self._states(request, asked)
        said = await anext(states, None)
        if said is None:
            return Response(status_code=499)  # nobody is there to read it
        answer = Answer(asked.model, decoding_of(asked).max_new_tokens)
        if asked.stream:
            chunks = self._chunks(answer, said, states, asked.include_usage)
            return StreamingResponse(
                chunks, media_type="text/event-stream", headers={"Cache-Control": "no-store"}
            )
        async with aclosing(states):
            async for newer in states:
                said = newer
        return JSONResponse(answer.whole(said))

    async def _states(self, request: Request, asked: Asked) -> AsyncIterator[Said]:
        """The answer as it grows; ends early when the client has left. Raises ChatError."""
        lineup = await run_in_threadpool(lineup_with, self._loader, asked.model)
        decoding = decoding_of(asked)
        loop, stopped = asyncio.get_running_loop(), threading.Event()
        news: asyncio.Queue[Said | ChatError] = asyncio.Queue()

        def tell(what: Said | ChatError) -> None:
            with suppress(RuntimeError):  # the app has closed, and its loop with it
                loop.call_soon_threadsafe(news.put_nowait, what)

        def work() -> None:
            try:
                for said in speak(lineup, asked, decoding, self._settings, stopped):
                    tell(said)
            except ChatError as error:
                tell(error)
            except QvlaError as error:
                tell(ChatError(str(error), 503))
            except Exception:
                log.exception("A chat request failed.")
                tell(ChatError(UNFORESEEN, 500))

        try:
            async with self._turns.turn(request, work):
                while not await request.is_disconnected():
                    try:
                        what = await asyncio.wait_for(news.get(), POLL_SECONDS)
                    except TimeoutError:
                        continue
                    if isinstance(what, ChatError):
                        raise what
                    yield what
                    if what.done:
                        return
        finally:
            stopped.set()

    async def _chunks(
        self, answer: Answer, first: Said, states: AsyncIterator[Said], with_usage: bool
    ) -> AsyncIterator[str]:
        async with aclosing(states):
            said = first
            yield answer.opening() + answer.next(first)
            try:
                async for said in states:
                    if chunk := answer.next(said):
                        yield chunk
            except ChatError as error:
                yield fault(error)
                return
            if said.done:
                yield answer.closing(said, with_usage=with_usage)

    def _names(self) -> list[str]:
        """Who can be asked now, or will be once the weights are there."""
        lineup = self._loader.lineup
        if lineup is None:
            able = [one.name for one in self._loader.contenders]
        else:
            able = [one.name for one in lineup.variants() if one.available]
        return able + [task.name for task in self._loader.tasks]

    async def _body(self, request: Request) -> bytes:
        """The request's JSON; of one that is too large the rest is read, up to as much again, for
        its client to hear the answer.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # what other sites' pages may send unasked has other types
            raise ChatError("Send the request as application/json.")
        largest, size, parts = largest_body(self._settings.max_upload_bytes), 0, []
        async for part in request.stream():
            size += len(part)
            if size <= largest:
                parts.append(part)
            elif size > 2 * largest:
                break
        if size > largest:
            raise too_large(self._settings.max_upload_bytes)
        return b"".join(parts)

    def _check_key(self, request: Request) -> None:
        key = self._settings.openai_key
        if key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        same = secrets.compare_digest(given.strip().encode(), key.get_secret_value().encode())
        if scheme.lower() != "bearer" or not same:
            raise ChatError(
                "This app wants a key: send its QVLA_OPENAI_KEY as `Authorization: Bearer …`.",
                401,
                code="invalid_api_key",
            )
