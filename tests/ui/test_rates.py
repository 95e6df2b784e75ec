"""How often one client may ask, by a clock that the tests set."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from qvla.captioning.loader import LineupLoader
from qvla.settings import PRIVATE_NETWORKS, Settings
from qvla.ui.rates import Rates
from tests.support.serving import served

ADA, BOB = "8.8.8.8", "2001:4860:4860::8888"


class Site:
    def __init__(self, per_minute: int) -> None:
        async def answer(_: Request) -> PlainTextResponse:
            return PlainTextResponse("ok")

        paths = ("/gradio_api/queue/join", "/v1/chat/completions", "/health")
        routes = [Route(path, answer, methods=["GET", "POST"]) for path in paths]
        self.now = 0.0
        self.app = Rates(Starlette(routes=routes), per_minute, lambda: self.now)

    def post(self, address: str, path: str = "/gradio_api/queue/join") -> httpx.Response:
        return TestClient(self.app, client=(address, 1)).post(path)

    def allowed(self, address: str, most: int = 20) -> int:
        """How many requests go through one after the other."""
        return next((n for n in range(most) if self.post(address).status_code == 429), most)


def test_a_minutes_allowance_comes_back_steadily_and_each_address_has_its_own() -> None:
    site = Site(6)
    assert site.allowed(ADA) == 6
    assert site.allowed(BOB) == 6
    assert site.allowed("2001:4860:4860::1") == 0  # the same network as Bob's
    site.now = 9.9
    assert site.post(ADA).status_code == 429
    site.now = 10
    assert site.allowed(ADA) == 1
    site.now = 1000
    assert site.allowed(ADA) == 6  # and no more, however long it was away


def test_looking_is_not_counted_nor_is_who_may_be_a_crowd() -> None:
    site = Site(2)
    client = TestClient(site.app, client=(ADA, 1))
    assert all(client.get("/health").status_code == 200 for _ in range(5))
    assert all(site.post(ADA, "/health").status_code == 200 for _ in range(5))
    assert site.allowed("127.0.0.1") == site.allowed("10.1.2.3") == site.allowed("::1") == 20
    assert Site(0).allowed(ADA) == 20


def test_the_refusal_is_a_sentence_in_the_form_that_each_client_reads() -> None:
    site = Site(1)
    site.post(ADA)
    refused = site.post(ADA)
    assert refused.json()["detail"] == "More than 1 requests in a minute: wait a little."
    assert refused.headers["retry-after"] == "61"
    error = site.post(ADA, "/v1/chat/completions").json()["error"]
    assert error["type"] == "rate_limit_error" and "wait a little" in error["message"]


def test_the_app_counts_whom_a_trusted_proxy_speaks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    settings = Settings(requests_per_minute=2, trusted_proxies=("127.0.0.0/8",), device="cpu")
    with served(settings, LineupLoader(lambda progress: None)) as address:
        url = f"{address}gradio_api/call/none_such"

        def ask(client: str) -> int:
            # Who spoofs puts an address before the one that the proxy adds.
            headers = {"x-forwarded-for": f"1.1.1.1, {client}"}
            return httpx.post(url, json={"data": []}, headers=headers).status_code

        assert [ask(ADA) == 429 for _ in range(3)] == [False, False, True]
        assert ask("9.9.9.9") != 429
        assert all(httpx.post(url, json={"data": []}).status_code != 429 for _ in range(4))


def test_a_space_trusts_its_own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert Settings().trusted_proxies == ()
    monkeypatch.setenv("SPACE_ID", "ada/qvla")
    assert Settings().trusted_proxies == PRIVATE_NETWORKS
