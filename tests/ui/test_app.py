"""The served app as a whole: what holds for every endpoint, whatever the way in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from qvla.captioning.loader import LineupLoader
from qvla.settings import Settings
from tests.support.servers import free_port
from tests.support.serving import served


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app while its weights are not there: nothing here captions."""
    jobs: Path = tmp_path_factory.mktemp("jobs")
    loader = LineupLoader(lambda progress: pytest.fail("nothing asks for weights"))
    with served(Settings(jobs=jobs, admin_password="open sesame", port=free_port()), loader) as at:
        yield at


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
