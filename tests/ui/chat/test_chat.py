"""The chat completions, asked by OpenAI's own client: held against the models loaded alone."""

from __future__ import annotations

import base64
import json
import logging
import socket
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from qvla.captioning.loader import LineupLoader
from qvla.captioning.prompts import typed_prompt
from qvla.cli.logs import AsJson
from qvla.curation.curate import Curation
from qvla.curation.endpoint import Endpoint, data_url
from qvla.curation.keys import KeyPool
from qvla.curation.rows import answer_file
from qvla.data.imagery import open_image
from qvla.settings import Settings
from tests.support.alone import Alone, save_adapter
from tests.support.held import held, module_trees
from tests.support.serving import add_adapters, write_photo
from tests.support.tiny import build_tiny
from tests.support.waiting import PATIENCE, until

KEY = "a key that nobody guesses"
QUESTION = "is the river next to some trees"
WAITING = 2


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home: Path = tmp_path_factory.mktemp("chat")
    model = add_adapters(build_tiny(home / "model"))
    save_adapter(model, home / "bank" / "ships", seed=7)
    return Settings(
        model=str(model),
        bank=home / "bank",
        device="cpu",
        jobs=home / "jobs",
        max_upload_mb=1,
        concurrency=1,
        queue_size=WAITING,
        openai_api="on",
        openai_key=KEY,
    )


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{address}v1", api_key=KEY, max_retries=0, timeout=PATIENCE) as client:
        yield client


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo(tmp_path_factory.mktemp("photo") / "photo.png", seed=5)


def as_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def asking(photo: Path | str, text: str = "", model: str = "base", **more: Any) -> dict[str, Any]:
    """The arguments of a request about a photo, a file or what stands in its place."""
    url = photo if isinstance(photo, str) else as_url(photo.read_bytes())
    content = [{"type": "image_url", "image_url": {"url": url}}]
    content += [{"type": "text", "text": text}] if text else []
    return {"model": model, "messages": [{"role": "user", "content": content}], **more}


def ask(client: OpenAI, *arguments: Any, **more: Any) -> Any:
    return client.chat.completions.create(**asking(*arguments, **more))


def alone(settings: Settings, name: str) -> Alone:
    model = Path(settings.model)
    folders = {"base": None, "adapter": model / "adapter", "ships": settings.bank / "ships"}
    return Alone(model, folders[name])


# ---- what is answered ----------------------------------------------------------------------------


def test_models_are_the_contenders_and_the_banks_tasks(client: OpenAI) -> None:
    listed = client.models.list().data
    assert [one.id for one in listed] == ["base", "adapter", "qvla", "ships"]
    assert {one.object for one in listed} == {"model"}
    assert client.models.retrieve("ships").id == "ships"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


@pytest.mark.parametrize("name", ["base", "adapter", "ships"])
def test_captions_and_answers_are_those_of_the_model_alone(
    client: OpenAI, settings: Settings, photo: Path, name: str
) -> None:
    own, image = alone(settings, name), open_image(photo)
    for text, prompt in (("", "<image>caption en"), (QUESTION, f"<image>answer en {QUESTION}")):
        answer = ask(client, photo, text, name, max_tokens=6)
        assert answer.choices[0].message.content == own.text(image, prompt=prompt, max_new_tokens=6)
        assert answer.model == name and answer.object == "chat.completion"
        inputs = own.processor(images=image, text=prompt, return_tensors="pt")
        assert answer.usage.prompt_tokens == inputs["input_ids"].shape[1]
        tokens = own._generate(image, prompt, max_new_tokens=6).sequences.shape[1]
        assert answer.usage.completion_tokens == tokens
        assert answer.usage.total_tokens == tokens + answer.usage.prompt_tokens
        assert answer.choices[0].finish_reason == ("length" if tokens == 6 else "stop")


def test_a_stream_is_the_same_answer_in_pieces(client: OpenAI, photo: Path) -> None:
    whole = ask(client, photo, QUESTION, max_tokens=9)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(ask(client, photo, QUESTION, max_completion_tokens=9, **options))
    pieces = [one.choices[0].delta.content or "" for one in chunks if one.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len(list(filter(None, pieces))) > 1
    assert chunks[0].choices[0].delta.role == "assistant"
    ends = [one.choices[0].finish_reason for one in chunks if one.choices]
    assert ends[-1] == whole.choices[0].finish_reason and not any(ends[:-1])
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)


def test_sampling_is_as_the_request_says(client: OpenAI, photo: Path) -> None:
    sampled = {"temperature": 1.5, "top_p": 0.9, "max_tokens": 12}
    said = [
        ask(client, photo, seed=seed, **sampled).choices[0].message.content for seed in (1, 1, 2)
    ]
    assert said[0] == said[1] != said[2]


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("", "caption en"),
        ("  Describe this photo in detail. ", "caption en"),
        ("caption", "caption en"),
        ("caption es", "caption es"),
        ("answer en is it  green", "answer en is it green"),
        ("detect airplane", "detect airplane"),
        ("ocr", "ocr"),
        ("is there a river?", "answer en is there a river?"),
        ("answer in one word: which colour?", "answer en answer in one word: which colour?"),
    ],
)
def test_what_is_typed_becomes_a_prompt(text: str, prompt: str) -> None:
    assert typed_prompt(text) == prompt


def test_what_was_answered_is_counted_and_logged_without_a_word_of_it(
    client: OpenAI, address: str, photo: Path
) -> None:
    before = samples(address)
    written = StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(AsJson())
    log = logging.getLogger("qvla.answers")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        answer = ask(client, photo, QUESTION, "ships", max_tokens=5)
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    after = samples(address)
    done = 'qvla_answers_total{model="ships",outcome="done"}'
    tokens = 'qvla_answer_tokens_total{model="ships"}'
    assert after[done] - before.get(done, 0) == 1
    assert after[tokens] - before.get(tokens, 0) == answer.usage.completion_tokens
    assert after['qvla_answer_seconds_count{model="ships"}'] >= 1
    assert (after["qvla_ready"], after["qvla_queue_limit"]) == (1, WAITING)
    assert after["process_resident_memory_bytes"] > 0
    assert httpx.get(f"{address}health").status_code == 200
    (line,) = written.getvalue().splitlines()
    told = json.loads(line)
    assert (told["model"], told["outcome"], told["message"]) == ("ships", "done", "answer")
    assert told["tokens"] == answer.usage.completion_tokens and told["seconds"] > 0
    known = {"time", "level", "logger", "message", "model", "outcome", "tokens", "seconds"}
    assert told.keys() == known  # and so no word of question or answer


def samples(address: str) -> dict[str, float]:
    """What /metrics says, as Prometheus's own parser reads it."""
    text = httpx.get(f"{address}metrics").text
    found = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(one.labels.items()))
            found[f"{one.name}{{{labels}}}" if labels else one.name] = one.value
    return found


# ---- what is refused -----------------------------------------------------------------------------

ADDRESS = "http://127.0.0.1:9/photo.png"
REFUSED: dict[str, tuple[Any, int, str]] = {
    "another model": ({"model": "nobody"}, 404, "Choose variants among base"),
    "an address": ({"photo": ADDRESS}, 400, "addresses are not fetched"),
    "no base64": ({"photo": "data:image/png;base64,!!"}, 400, "not whole base64"),
    "no image": ({"photo": as_url(b"no picture")}, 400, "not an image that can be read"),
    "half an image": ({"photo": as_url(b"\xff\xd8\xff\xe0cut")}, 400, "damaged"),
    "a drawing": ({"photo": as_url(b"<svg/>")}, 400, "an SVG drawing"),
    "too large": ({"photo": as_url(b"0" * (2**20 + 1))}, 413, "larger than the 1 MB"),
    "far too large": ({"photo": as_url(b"0" * 2**21)}, 413, "larger than the 1 MB"),
    "special tokens": ({"text": "is it <eos> green"}, 400, "it holds <eos>"),
    "tokens in a task": ({"text": "detect <image>"}, 400, "may not hold <image>"),
    "a long question": ({"text": "why " * 60}, 400, "200 are the most"),
    "a long text": ({"text": "why " * 600}, 400, "2,000 letters"),
    "two answers": ({"n": 2}, 400, "with n: leave it out"),
    "tools": ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "with tools"),
    "a hot answer": ({"temperature": 9.0}, 400, "temperature must lie between"),
    "no answer": ({"max_tokens": 0}, 400, "maximum length"),
    "a word for a number": ({"max_tokens": "few"}, 400, "max_tokens: input should be"),
    "no messages": ({"messages": []}, 400, "messages: "),
    "text alone": ({"messages": [{"role": "user", "content": "hello"}]}, 400, "Send one photo"),
    "a talk": ({"messages": [{"role": "assistant", "content": "yes"}]}, 400, "only user messages"),
}


@pytest.mark.parametrize(("change", "status", "sentence"), REFUSED.values(), ids=list(REFUSED))
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_answered_is_one_sentence_with_its_status(
    client: OpenAI, photo: Path, change: dict[str, Any], status: int, sentence: str, stream: bool
) -> None:
    request = asking(change.get("photo", photo), change.get("text", ""), stream=stream)
    request |= {name: value for name, value in change.items() if name not in ("photo", "text")}
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**request)
    assert caught.value.status_code == status
    assert caught.value.body.keys() == {"message", "type", "param", "code"}
    assert caught.value.body["type"] == "invalid_request_error"
    said = caught.value.body["message"]
    assert sentence in said and said.endswith(".") and "\n" not in said


@pytest.mark.parametrize("key", ["", "another key", KEY[:-1], f"{KEY} ", "schlüssel"])
def test_without_the_key_nothing_is_answered(address: str, photo: Path, key: str) -> None:
    sent = {"Authorization": f"Bearer {key}".encode()} if key else {}
    if key == f"{KEY} ":
        sent = {"Authorization": f"Basic {KEY}".encode()}
    asked = httpx.post(f"{address}v1/chat/completions", json=asking(photo), headers=sent)
    for answer in (httpx.get(f"{address}v1/models", headers=sent), asked):
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert KEY not in answer.text


def test_other_sites_pages_cannot_ask_and_no_json_is_no_fault(address: str, photo: Path) -> None:
    key = {"Authorization": f"Bearer {KEY}"}
    url = f"{address}v1/chat/completions"
    plain = {**key, "Content-Type": "text/plain"}
    answer = httpx.post(url, content=json.dumps(asking(photo)), headers=plain)
    assert answer.status_code == 400 and "application/json" in answer.json()["error"]["message"]
    as_json = {**key, "Content-Type": "application/json"}
    for body in ("{", "[" * 100_000, "[]", "\x00"):
        assert httpx.post(url, content=body, headers=as_json).status_code == 400


# ---- the project's own client --------------------------------------------------------------------


def test_curation_asks_the_app_itself(address: str, settings: Settings, tmp_path: Path) -> None:
    photo = write_photo(tmp_path / "photos.png", seed=9, size=(1500, 40))
    folder = tmp_path / "photos"
    folder.mkdir()
    photo.rename(folder / "field.png")
    with (
        Endpoint(f"{address}v1", "adapter") as endpoint,
        answer_file(tmp_path / "answers.jsonl") as file,
    ):
        keys = KeyPool(["a wrong one", KEY])
        tally = Curation(endpoint, keys, file).run(folder, [QUESTION])
    assert (tally.answered, len(keys)) == (1, 1)
    sent = base64.b64decode(data_url(open_image(folder / "field.png")).partition(",")[2])
    prompt = f"<image>answer en {QUESTION}"
    said = alone(settings, "adapter").text(open_image(sent), prompt=prompt, max_new_tokens=16)
    row = json.loads((tmp_path / "answers.jsonl").read_text())
    assert row["Answer"] == said.rstrip(".! ") and row["Filename"] == "field.png"


# ---- the queue -----------------------------------------------------------------------------------


def queue_of(address: str) -> dict[str, int]:
    return httpx.get(f"{address}health").json()["queue"]


def test_a_client_that_leaves_ends_its_answer(
    client: OpenAI, address: str, loader: LineupLoader, photo: Path
) -> None:
    made = []
    heads = {tree.get_output_embeddings() for tree in module_trees(loader.lineup)}
    hooks = [head.register_forward_hook(lambda *_: made.append(1)) for head in heads]
    with held(loader.lineup, 5) as go_on:
        stream = ask(client, photo, max_tokens=100, stream=True)
        assert any(chunk.choices[0].delta.content for chunk in stream)
        stream.close()
        until(lambda: queue_of(address)["running"] == 0)
        go_on.set()
    ask(client, photo, max_tokens=1)  # has its turn behind the one that was given up
    for hook in hooks:
        hook.remove()
    assert len(made) < 50


def test_a_client_that_leaves_the_queue_frees_its_place(
    client: OpenAI, address: str, loader: LineupLoader, photo: Path
) -> None:
    with ThreadPoolExecutor() as pool, held(loader.lineup, 1) as go_on:
        first = ask(client, photo, max_tokens=3, stream=True)
        next(first)
        url = httpx.URL(address)
        body = json.dumps(asking(photo)).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {url.host}\r\n"
            f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection((url.host, url.port)) as leaver:
            leaver.sendall(head.encode() + body)
            until(lambda: queue_of(address) == {"waiting": 1, "running": 1, "most": WAITING})
        until(lambda: queue_of(address)["waiting"] == 0)
        other = pool.submit(ask, client, photo, max_tokens=3)
        until(lambda: queue_of(address)["waiting"] == 1)
        go_on.set()
        assert other.result().choices[0].message.content
        first.close()


def test_a_full_queue_refuses_at_once_and_answers_those_who_wait(
    client: OpenAI, loader: LineupLoader, photo: Path
) -> None:
    with ThreadPoolExecutor() as pool, held(loader.lineup, 1) as go_on:
        first = ask(client, photo, max_tokens=3, stream=True)
        next(first)  # it has its turn
        others = [pool.submit(ask, client, photo, max_tokens=3) for _ in range(WAITING + 2)]
        waiting = set(others)
        while len(waiting) > WAITING:
            done, waiting = wait(waiting, timeout=PATIENCE, return_when=FIRST_COMPLETED)
            for one in done:
                fault = one.exception()
                assert isinstance(fault, openai.RateLimitError)
                assert fault.body["code"] == "queue_full"
                assert int(fault.response.headers["retry-after"]) > 0
        go_on.set()
        said = "".join(chunk.choices[0].delta.content or "" for chunk in first if chunk.choices)
        assert {one.result().choices[0].message.content for one in waiting} == {said}
