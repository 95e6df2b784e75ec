"""The served app as a whole: what holds for every endpoint, whatever the way in."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import httpx
import pytest

from qvla.captioning.loader import LineupLoader
from qvla.settings import ASSETS, Settings
from tests.support.servers import free_port, http_server
from tests.support.serving import served


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app while its weights are not there: nothing here captions."""
    jobs: Path = tmp_path_factory.mktemp("jobs")
    loader = LineupLoader(lambda progress: pytest.fail("nothing asks for weights"))
    settings = Settings(jobs=jobs, admin_password="open sesame", port=free_port(), openai_api="on")
    with served(settings, loader) as at:
        yield at


class Listener(BaseHTTPRequestHandler):
    """A server that somebody would have the app ask."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


def test_no_endpoint_fetches_an_address(address: str) -> None:
    config = httpx.get(f"{address}config").json()
    takers = {one["id"] for one in config["components"] if one["type"] in ("uploadbutton", "html")}
    names = [
        one["api_name"] for one in config["dependencies"] if takers.intersection(one["inputs"])
    ]
    assert {"compare", "score_predictions", "show_predictions", "admin_upload"} <= set(names)
    with http_server(Listener) as elsewhere, httpx.Client(timeout=60) as client:
        url = f"{elsewhere}/photo.jpg"
        meta = {"_type": "gradio.FileData"}
        file = {"path": url, "url": url, "orig_name": "x.jpg", "meta": meta}
        for one in config["dependencies"]:
            if one["api_name"] not in names:
                continue
            data = [file if part in takers else None for part in one["inputs"]]
            way = f"{address}gradio_api/call/{one['api_name']}"
            asked = client.post(way, json={"data": data, "session_hash": "one-visit"})
            if asked.status_code == 200:
                said = client.get(f"{way}/{asked.json()['event_id']}").text
                assert "event: error" in said or "html" in one["api_name"], one["api_name"]
    assert Listener.asked == []


def test_our_script_comes_before_all_of_gradio(address: str) -> None:
    page = httpx.get(address)
    first = page.text.index("<script")
    assert page.text.index((ASSETS / "ui" / "early.js").read_text(encoding="utf-8")) < first + 10
    assert page.text.rstrip().endswith("</html>")
    assert httpx.head(address).status_code == 200


def test_the_page_is_compressed_for_who_takes_that(address: str) -> None:
    packed = httpx.get(address, headers={"Accept-Encoding": "gzip"})
    whole = httpx.get(address, headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in whole.headers
    assert int(whole.headers["content-length"]) == len(whole.content)
    assert int(packed.headers["content-length"]) < len(packed.content) / 2
    for page in (packed, whole):
        assert "Accept-Encoding" in page.headers["vary"]
        assert "window.gradio_config" in page.text and page.text.rstrip().endswith("</html>")


def test_opening_the_page_asks_for_the_visit_alone(address: str) -> None:
    """Each event of it would keep the visitor from the first caption for a while."""
    config = httpx.get(f"{address}config").json()
    opened = [
        one["api_name"]
        for one in config["dependencies"]
        if one["backend_fn"] and any(event == "load" for _, event in one["targets"])
    ]
    assert opened == ["restore_visit"]


def test_the_browser_keeps_no_progress_that_is_not_shown(address: str) -> None:
    config = httpx.get(f"{address}config").json()
    hidden = [one for one in config["dependencies"] if one["show_progress"] == "hidden"]
    assert {"restore_visit", "compare_and_keep"} <= {one["api_name"] for one in hidden}
    assert all(one["show_progress_on"] == [] for one in hidden)


def test_no_call_passes_the_queue_by(address: str) -> None:
    """A call of `run` or `api` would not wait, however many do already."""
    config = httpx.get(f"{address}config").json()
    queued = [one["api_name"] for one in config["dependencies"] if one["queue"]]
    assert "compare" in queued
    with httpx.Client(timeout=60) as client:
        for name in queued:
            for way in ("run", "api"):
                answer = client.post(f"{address}gradio_api/{way}/{name}", json={"data": []})
                assert answer.status_code == 404 and "join the queue" in answer.text, name


def test_health_tells_that_it_cannot_answer_yet_and_why(address: str) -> None:
    answer = httpx.get(f"{address}health")
    told = answer.json()
    assert answer.status_code == 503 and told["ready"] is False
    assert told["weights"] == "loading"
    assert told["models"] == {"base": False, "adapter": False, "qvla": False}
    assert told["queue"] == {"waiting": 0, "running": 0, "most": 16}
    assert told["disk"]["free_bytes"] > 0 and told["worker"] == "stopped"
    metrics = httpx.get(f"{address}metrics").text
    assert "qvla_ready 0.0" in metrics and 'qvla_model_available{model="qvla"} 0.0' in metrics


def test_before_the_weights_are_there_chat_clients_are_told_when_to_come_back(
    address: str,
) -> None:
    answer = httpx.post(f"{address}v1/chat/completions", json={"model": "base", "messages": []})
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
    assert answer.json()["error"]["type"] == "server_error"
    names = [one["id"] for one in httpx.get(f"{address}v1/models").json()["data"]]
    assert names == ["base", "adapter", "qvla"]
