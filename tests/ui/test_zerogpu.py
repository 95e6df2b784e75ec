"""Captions where a GPU is lent for one call at a time, in a process forked from the app's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from qvla.captioning import attention, engine
from qvla.captioning.contenders import LineupError
from qvla.captioning.lineup import Lineup
from qvla.captioning.loader import LineupLoader
from qvla.captioning.prompts import CAPTION_PREFIX
from qvla.data.imagery import open_image
from qvla.errors import QvlaError
from qvla.planning.lending import seconds_to_lend
from qvla.settings import Settings, on_zerogpu
from qvla.ui import zerogpu
from tests.support.servers import free_port
from tests.support.serving import add_adapters, write_photo
from tests.support.tiny import build_tiny
from tests.support.waiting import PATIENCE
from tests.support.zerogpu import Lender, StandIn, lender

SHORT = engine.Decoding(max_new_tokens=6)


@pytest.fixture(scope="module")
def lineup(tiny_checkpoint: Path) -> Lineup:
    return Lineup.load(tiny_checkpoint, device="cpu", variants=["base"])


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo(tmp_path_factory.mktemp("photos") / "one.png")


@pytest.fixture(scope="module")
def image(photo: Path) -> Image.Image:
    return open_image(photo)


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """As on ZeroGPU, with a stand-in for its package."""
    package = StandIn()
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setitem(sys.modules, "spaces", package)
    zerogpu._decorated.cache_clear()
    yield package
    zerogpu._decorated.cache_clear()


def test_captions_come_from_the_other_process_as_they_grow(
    lineup: Lineup, image: Image.Image, lent: StandIn
) -> None:
    [alone] = engine.caption(lineup, [image], ["base"], SHORT)
    came = [one["base"] for one in zerogpu.stream(lineup, image, ["base"], SHORT, CAPTION_PREFIX)]
    assert (came[-1].text, came[-1].tokens) == (alone["base"].text, alone["base"].tokens)
    assert came[-1].done and came[-1].log_probability == pytest.approx(
        alone["base"].log_probability
    )
    counts = [partial.tokens for partial in came]
    assert counts == sorted(counts)
    assert lent.durations == [
        seconds_to_lend(lineup.variant("base").weight_bytes, 1, SHORT.max_new_tokens)
    ]


def test_a_process_forked_while_captions_are_made_here_makes_its_own(
    lineup: Lineup, image: Image.Image, lent: StandIn
) -> None:
    [alone] = engine.caption(lineup, [image], ["base"], SHORT)
    own = engine.stream(lineup, image, ["base"], SHORT)
    with lineup.shared("base").lock:  # as a step under way here holds it
        assert not next(own)["base"].done
        *_, there = zerogpu.stream(lineup, image, ["base"], SHORT, CAPTION_PREFIX)
    *_, here = own
    assert there["base"].text == here["base"].text == alone["base"].text


def test_where_it_looked_comes_back_whole(
    lineup: Lineup, image: Image.Image, lent: StandIn
) -> None:
    asked = lineup, "base", image, CAPTION_PREFIX, "many trees"
    here = attention.where_it_looked(*asked)
    there = zerogpu.where_it_looked(*asked)
    assert there.answer.ravel().tolist() == pytest.approx(here.answer.ravel().tolist())
    assert len(lent.durations) == 1


def test_our_own_errors_keep_their_words(lineup: Lineup, image: Image.Image, lent: StandIn) -> None:
    with pytest.raises(QvlaError) as here:
        attention.where_it_looked(lineup, "qvla", image, CAPTION_PREFIX, "trees")
    with pytest.raises(zerogpu.GpuError) as there:
        zerogpu.where_it_looked(lineup, "qvla", image, CAPTION_PREFIX, "trees")
    assert str(there.value) == str(here.value)


def test_who_leaves_ends_the_generation_over_there(
    lineup: Lineup, image: Image.Image, lent: StandIn
) -> None:
    long = engine.Decoding(max_new_tokens=200)
    partials = zerogpu.stream(lineup, image, ["base"], long, CAPTION_PREFIX)
    next(partials)
    partials.close()  # returns only once the process has ended
    assert len(lent.durations) == 1


def test_the_lineup_is_closed_once_it_may_be_lent(
    tiny_checkpoint: Path, tmp_path: Path, lent: StandIn
) -> None:
    settings = Settings(model=str(tiny_checkpoint), home=tmp_path, device="cpu")
    loader = LineupLoader.of(settings)
    zerogpu.prepare(loader)
    assert loader.lineup is not None, "it was not loaded in this thread"
    for change in (
        lambda: loader.lineup.swap_adapter("adapter", tmp_path),
        lambda: loader.lineup.drop_adapter("adapter"),
        lambda: loader.lineup.remove("base"),
    ):
        with pytest.raises(LineupError, match="restart the Space"):
            change()
    assert not settings.may_measure


def test_a_space_without_the_package_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path
) -> None:
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setitem(sys.modules, "spaces", None)
    zerogpu._decorated.cache_clear()
    with pytest.raises(QvlaError, match=r"add it to requirements\.txt"):
        zerogpu.prepare(LineupLoader.of(Settings(model=str(tiny_checkpoint))))


def test_elsewhere_nothing_is_lent(
    lineup: Lineup, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spaces", None)
    assert not on_zerogpu()
    *_, last = zerogpu.stream(lineup, image, ["base"], SHORT, CAPTION_PREFIX)
    assert last["base"].done


@pytest.mark.parametrize(
    ("title", "message", "told"),
    [
        (
            "ZeroGPU quota exceeded",
            "You have exceeded your free ZeroGPU quota (60s requested vs. 12s left). Try again in "
            "3:20:11. Subscribe to Hugging Face PRO to get 40 min of ZeroGPU quota a day - https://…",
            "try again in 3:20:11, or sign in",
        ),
        ("ZeroGPU quota exceeded", "You have exceeded your ZeroGPU runs limit. ", "used up"),
        (
            "ZeroGPU quota exceeded",
            "Space app has reached its GPU limit. Try re-running outside of examples if it …",
            "sign in at huggingface.co",
        ),
        (
            "ZeroGPU illegal duration",
            "The requested GPU duration (600s) is larger …",
            "fewer tokens",
        ),
        ("ZeroGPU queue timeout", "No GPU was available after 60s. Retry later", "try again"),
        ("ZeroGPU client error", "Expired ZeroGPU proxy token", "reload the page"),
        ("ZeroGPU client error", "No GPU was available", "No GPU is free"),
        ("ZeroGPU worker error", "GPU task aborted", "taken back before the end"),
        ("ZeroGPU worker error", "ValueError", "ZeroGPU could not be used (ValueError)"),
        ("ZeroGPU pending credits exceeded", "You have too many ZeroGPU credits …", "set aside"),
    ],
)
def test_what_the_package_raises_becomes_one_sentence(
    lineup: Lineup, image: Image.Image, lent: StandIn, title: str, message: str, told: str
) -> None:
    lent.refusal = gr.Error(message, title=title, print_exception=False)
    with pytest.raises(zerogpu.GpuError) as raised:
        list(zerogpu.stream(lineup, image, ["base"], SHORT, CAPTION_PREFIX))
    said = str(raised.value)
    assert told in said and said.endswith(".") and "\n" not in said


def test_a_gpu_is_asked_for_longer_where_more_is_asked() -> None:
    size = 6 * 10**9
    assert 30 <= seconds_to_lend(2 * size, 3, 40) <= 60  # the default three: no more than a minute
    assert seconds_to_lend(size, 1, 40) < seconds_to_lend(size, 3, 40)
    assert seconds_to_lend(size, 1, 40) < seconds_to_lend(size, 1, 256)
    assert seconds_to_lend(size, 1, 40) < seconds_to_lend(size, 1, 40, beams=True)


# ---- the package itself ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_adapters(build_tiny(tmp_path_factory.mktemp("adapted")))


@pytest.fixture(scope="module")
def space(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Lender]]:
    """The app's address, and the service that lends it GPUs."""
    pytest.importorskip("spaces", reason="spaces is not installed")
    home, port = tmp_path_factory.mktemp("home"), free_port()
    with lender() as service:
        environment = os.environ | {
            "SPACES_ZERO_GPU": "true",
            "SPACES_ZERO_DEVICE_API_URL": service.address,
            "HOME": str(home),
            "QVLA_HOME": str(home / "qvla"),
            "QVLA_MODEL": str(checkpoint),
            "QVLA_PORT": str(port),
            "QVLA_WORKER": "off",
            "QVLA_OPENAI_API": "on",
        }
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        command = [sys.executable, "-m", "tests.support.zerogpu", "serve"]
        app = subprocess.Popen(command, env=environment, start_new_session=True, **streams)
        try:
            said = []
            while not said or not said[-1].startswith("QVLA is open at "):
                said.append(app.stdout.readline())
                assert said[-1], f"it ended: {''.join(said)}"
            yield f"http://127.0.0.1:{port}", service
        finally:
            os.killpg(app.pid, signal.SIGKILL)  # with the processes that it has forked
            app.communicate(timeout=PATIENCE)


@pytest.mark.slow
def test_the_package_lends_a_process_that_answers_alike(
    space: tuple[str, Lender], checkpoint: Path, photo: Path, image: Image.Image
) -> None:
    address, service = space
    assert service.of("/startup-report")
    alone = Lineup.load(
        checkpoint,
        adapter=checkpoint / "adapter",
        nf4_adapter=checkpoint / "qvla",
        precision="bf16",
        device="cpu",
    )
    [due] = engine.caption(alone, [image], decoding=engine.Decoding(max_new_tokens=12))
    client = Client(address, verbose=False)
    for _ in range(2):  # the second time in the same process
        told = client.predict(handle_file(str(photo)), "", 12, api_name="/compare")
        for name in ("base", "adapter"):
            assert told[name]["caption"] == due[name].text
            assert told[name]["precision"] == "bf16"
        assert told["qvla"]["state"] == "done" and told["qvla"]["tokens"]
    assert len({query["pid"] for query in service.of("/allow")}) == 1
    assert [query["fail"] for query in service.of("/release")] == ["false", "false"]
    lengths = {int(query["durationSeconds"]) for query in service.of("/schedule")}
    size = sum(alone.variant(name).weight_bytes for name in ("base", "qvla"))
    assert lengths == {seconds_to_lend(size, 3, 12)}


@pytest.mark.slow
def test_the_packages_refusals_are_sentences(space: tuple[str, Lender], photo: Path) -> None:
    address, service = space
    service.refusal = 429, {"left": 3, "wait": 7200}
    client = Client(address, verbose=False)
    try:
        with pytest.raises(AppError, match="for visitors who are not signed in is used up"):
            client.predict(handle_file(str(photo)), api_name="/compare")
        service.refusal = 503, {}
        with pytest.raises(AppError, match="No GPU is free: try again"):
            client.predict(handle_file(str(photo)), "how many?", api_name="/ask")
    finally:
        service.refusal = None


@pytest.mark.slow
def test_a_chat_streams_through_the_package(space: tuple[str, Lender], photo: Path) -> None:
    address, _ = space
    import base64

    url = f"data:image/png;base64,{base64.b64encode(photo.read_bytes()).decode()}"
    content = [{"type": "text", "text": ""}, {"type": "image_url", "image_url": {"url": url}}]
    body = {
        "model": "adapter",
        "stream": True,
        "max_tokens": 12,
        "messages": [{"role": "user", "content": content}],
    }
    asked = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=PATIENCE)
    events = [line for line in asked.text.splitlines() if line.startswith("data: ")]
    assert asked.status_code == 200 and events[-1] == "data: [DONE]"
    assert '"finish_reason": "stop"' in asked.text or '"finish_reason": "length"' in asked.text
