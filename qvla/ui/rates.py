"""How often one client may ask: so many requests a minute, then a sentence that says to wait."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

ASKING = ("/gradio_api/", "/v1/")  # beginnings of paths whose POSTs are work
MOST_CLIENTS = 10_000  # whose allowances are remembered
IPV6_NETWORK = 64  # bits; whoever has one address has all of its network's
MINUTE = 60.0


class Rates:
    """Counts POSTs by address. An allowance is that of a minute, and comes back steadily.

    An address that is not of the public internet is not counted: behind it may be a proxy that
    does not tell whom it speaks for, and so a crowd.
    """

    def __init__(
        self, app: ASGIApp, per_minute: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        """`per_minute` of 0 refuses nobody."""
        self.app = app
        self._per_minute = per_minute
        self._now = now
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # allowance, and when

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asks = (scope["type"], scope.get("method")) == ("http", "POST")
        if asks and scope["path"].startswith(ASKING) and self._wait(_client(scope)) > 0:
            await self._refusal(scope)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _wait(self, client: str) -> float:
        """Seconds until the client may ask; 0 takes one request off its allowance."""
        if not self._per_minute or not client:
            return 0.0
        now, rate = self._now(), self._per_minute / MINUTE
        left, when = self._left.pop(client, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + (now - when) * rate)
        wait = 0.0 if left >= 1 else (1 - left) / rate
        self._left[client] = (left if wait else left - 1, now)
        while len(self._left) > MOST_CLIENTS:
            self._left.popitem(last=False)
        return wait

    def _refusal(self, scope: Scope) -> JSONResponse:
        sentence = f"More than {self._per_minute:,} requests in a minute: wait a little."
        error: object = sentence
        if scope["path"].startswith("/v1/"):  # as OpenAI's clients read it
            error = {"message": sentence, "type": "rate_limit_error", "code": "rate_limit_exceeded"}
        wait = str(int(MINUTE / self._per_minute) + 1)
        body = {"detail": sentence, "error": error}
        return JSONResponse(body, status_code=429, headers={"Retry-After": wait})


def _client(scope: Scope) -> str:
    """The address or network of a client of the public internet, else nothing."""
    host = (scope.get("client") or ("",))[0]
    try:
        address = ip_address(host)
    except ValueError:  # a socket of this machine
        return ""
    if not address.is_global:
        return ""
    if isinstance(address, IPv6Address):
        return str(int(address) >> (128 - IPV6_NETWORK))
    return str(address)
