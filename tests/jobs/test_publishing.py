"""Adapters of every kind in the panes, and the pane as it was after taking them back."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants

from qvla.captioning.bank import bank_of
from qvla.captioning.decoding import Decoding
from qvla.captioning.engine import caption
from qvla.captioning.lineup import Lineup
from qvla.data.imagery import open_image
from qvla.jobs import publishing
from qvla.jobs.publishing import (
    PublishingError,
    add_pane,
    add_to_bank,
    apply,
    publish,
    published,
    take_back,
)
from qvla.jobs.push import PushError, model_card, push, pushed_files
from qvla.jobs.service import Jobs
from qvla.models.adapters import AdapterError
from qvla.settings import Settings
from tests.support.fine_tuned import finished_job, tiny_recipe
from tests.support.servers import http_server
from tests.support.serving import add_adapters, write_photo, write_risc_folder
from tests.support.tiny import build_tiny

ROWS = [("UCM", "val" if n > 3 else "train", f"{n}.png", ["green trees"]) for n in range(5)]
PANES = {"adapter": "adapter", "lora": "adapter", "qvla": "qvla", "qlora": "qvla"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("publishing")
    return Settings(
        model=str(add_adapters(build_tiny(home / "model"))),
        data=write_risc_folder(home / "risc", ROWS),
        jobs=home / "jobs",
        device="cpu",
    )


@pytest.fixture(scope="module")
def jobs(settings: Settings) -> Jobs:
    return Jobs(settings)


@pytest.fixture(scope="module")
def made(settings: Settings, jobs: Jobs) -> dict[str, str]:
    """A finished job of every method."""
    rate = {"full": 1e-3}
    recipes = {
        method: tiny_recipe(
            settings, method=method, learning_rate=rate.get(method, 0.05), eval_splits=[]
        )
        for method in (*PANES, "full")
    }
    return {name: finished_job(settings, jobs, recipe).id for name, recipe in recipes.items()}


@pytest.fixture(scope="module")
def lineup(settings: Settings) -> Lineup:
    return Lineup.load(
        settings.model, adapter=settings.adapter, nf4_adapter=settings.nf4_adapter, device="cpu"
    )


def put(settings: Settings, lineup: Lineup, jobs: Jobs, job_id: str) -> str:
    return publish(settings, lineup, job_id, jobs.get(job_id).recipe, jobs.adapter(job_id))


def said(lineup: Lineup, photo: Path) -> dict[str, str]:
    names = [one.name for one in lineup.variants() if one.available]
    [answers] = caption(lineup, [open_image(photo)], names, Decoding(max_new_tokens=12))
    return {name: answer.text for name, answer in answers.items()}


@pytest.mark.parametrize(  # the slow ones get panes of their own in the next test
    "method",
    ["adapter", "qlora", *(pytest.param(one, marks=pytest.mark.slow) for one in ("lora", "qvla"))],
)
def test_a_finished_adapter_of_any_kind_answers_in_its_pane_and_goes_again(
    settings: Settings,
    jobs: Jobs,
    made: dict[str, str],
    lineup: Lineup,
    method: str,
    tmp_path: Path,
) -> None:
    photo, pane = write_photo(tmp_path / "photo.png", seed=5), PANES[method]
    before = said(lineup, photo)
    assert put(settings, lineup, jobs, made[method]) == pane
    own = {"adapter": None, "nf4_adapter": None}
    own["adapter" if pane == "adapter" else "nf4_adapter"] = str(jobs.adapter(made[method]))
    alone = Lineup.load(settings.model, **own, device="cpu")
    now = said(lineup, photo)
    assert now[pane] == said(alone, photo)[pane] != before[pane]
    assert {name: text for name, text in now.items() if name != pane} == {
        name: text for name, text in before.items() if name != pane
    }
    again = Lineup.load(
        settings.model, adapter=settings.adapter, nf4_adapter=settings.nf4_adapter, device="cpu"
    )
    apply(settings, again)
    assert said(again, photo) == now
    assert again.variant(pane).adapter == f"job {made[method][-8:]}"
    take_back(settings, lineup, pane)
    assert said(lineup, photo) == before
    assert published(settings) == {}


def test_adapters_of_any_kind_get_panes_of_their_own_and_lose_them_again(
    settings: Settings, jobs: Jobs, made: dict[str, str], lineup: Lineup, tmp_path: Path
) -> None:
    photo = write_photo(tmp_path / "photo.png", seed=5)
    before = said(lineup, photo)
    names = {}
    for method in ("lora", "qvla"):
        job = jobs.get(made[method])
        names[method] = add_pane(settings, lineup, job.id, job.recipe, jobs.adapter(job.id))
        with pytest.raises(PublishingError, match="take it back first"):
            add_pane(settings, lineup, job.id, job.recipe, jobs.adapter(job.id))
    now = said(lineup, photo)
    assert list(now) == [*before, *names.values()]
    assert {name: now[name] for name in before} == before
    alone = Lineup.load(
        settings.model,
        adapter=jobs.adapter(made["lora"]),
        nf4_adapter=jobs.adapter(made["qvla"]),
        device="cpu",
    )
    due = said(alone, photo)
    assert (now[names["lora"]], now[names["qvla"]]) == (due["adapter"], due["qvla"])
    assert lineup.title(names["lora"]) == f"lora, job {made['lora'][-8:]}"
    with pytest.raises(PublishingError, match="QVLA_MODEL="):
        full = jobs.get(made["full"])
        add_pane(settings, lineup, full.id, full.recipe, jobs.adapter(full.id))

    file = settings.jobs / publishing.FILE
    values = json.loads(file.read_text(encoding="utf-8"))
    values[names["qvla"]]["precision"] = "int3"
    values["../pane"] = values[names["lora"]]
    file.write_text(json.dumps(values), encoding="utf-8")
    again = Lineup.load(settings.model, adapter=settings.adapter, device="cpu")
    apply(settings, again)
    assert again.names() == ("base", "adapter", "qvla", names["lora"])
    assert said(again, photo)[names["lora"]] == now[names["lora"]]
    assert "A pane is missing" in publishing.problems(settings)[names["qvla"]]
    for name in names.values():
        take_back(settings, again, name)
    assert again.names() == ("base", "adapter", "qvla")
    assert (published(settings), publishing.problems(settings)) == ({}, {})
    for name in names.values():
        lineup.remove(name)
    assert said(lineup, photo) == before


def test_a_finished_adapter_becomes_a_task_of_the_bank(
    settings: Settings, jobs: Jobs, made: dict[str, str], lineup: Lineup, tmp_path: Path
) -> None:
    (tmp_path / "bank").mkdir()
    own = settings.model_copy(update={"bank": tmp_path / "bank"})
    for method, precision in (("lora", "auto"), ("qlora", "nf4")):
        job = jobs.get(made[method])
        task = add_to_bank(own, lineup, job.id, job.recipe, jobs.adapter(job.id))
        assert bank_of(own).tasks()[task].precision == precision
        for file in jobs.adapter(job.id).iterdir():
            assert (own.bank / task / file.name).read_bytes() == file.read_bytes()
        with pytest.raises(PublishingError, match="already"):
            add_to_bank(own, lineup, job.id, job.recipe, jobs.adapter(job.id))
    with pytest.raises(PublishingError, match="QVLA_BANK"):
        add_to_bank(settings, lineup, job.id, job.recipe, jobs.adapter(job.id))
    assert len(list(own.bank.iterdir())) == 2


def test_what_was_published_before_there_were_panes_of_their_own_is_read(tmp_path: Path) -> None:
    settings = Settings(jobs=tmp_path)
    old = {"adapter": {"job": "20260101-000000-abcdef12", "folder": "/f", "model": "m"}}
    (tmp_path / publishing.FILE).write_text(json.dumps(old), encoding="utf-8")
    assert published(settings)["adapter"].name == "job abcdef12"
    (tmp_path / publishing.FILE).write_text("[]", encoding="utf-8")
    assert published(settings) == {}


def test_without_an_adapter_of_the_settings_the_pane_is_empty_again(
    settings: Settings, jobs: Jobs, made: dict[str, str], tmp_path: Path
) -> None:
    bare = settings.model_copy(update={"adapter": None, "nf4_adapter": None})
    lineup = Lineup.load(settings.model, device="cpu")
    photo = write_photo(tmp_path / "photo.png", seed=5)
    before = said(lineup, photo)
    assert list(before) == ["base"]
    put(bare, lineup, jobs, made["lora"])
    put(bare, lineup, jobs, made["qvla"])
    assert list(said(lineup, photo)) == ["base", "adapter", "qvla"]
    put(bare, lineup, jobs, made["adapter"])  # of another kind, in the same pane
    assert published(bare)["adapter"].job == made["adapter"]
    for pane in ("adapter", "qvla"):
        take_back(bare, lineup, pane)
    assert said(lineup, photo) == before
    assert "has no adapter" in lineup.variant("adapter").reason
    with pytest.raises(PublishingError, match="Nothing is published"):
        take_back(bare, lineup, "adapter")


def test_what_does_not_fit_is_refused_and_changes_nothing(
    settings: Settings, jobs: Jobs, made: dict[str, str], lineup: Lineup, tmp_path: Path
) -> None:
    photo = write_photo(tmp_path / "photo.png", seed=5)
    before = said(lineup, photo)
    with pytest.raises(PublishingError, match="QVLA_MODEL="):
        put(settings, lineup, jobs, made["full"])
    elsewhere = settings.model_copy(update={"model": str(build_tiny(tmp_path / "other"))})
    with pytest.raises(PublishingError, match="trained on model and the panes show other"):
        put(elsewhere, lineup, jobs, made["adapter"])
    recipe = jobs.get(made["lora"]).recipe
    with pytest.raises(AdapterError):
        publish(settings, lineup, made["lora"], recipe, tmp_path)
    assert said(lineup, photo) == before and published(settings) == {}


def test_a_restart_with_another_model_falls_back_with_a_sentence(
    settings: Settings, jobs: Jobs, made: dict[str, str], lineup: Lineup, tmp_path: Path
) -> None:
    put(settings, lineup, jobs, made["adapter"])
    other = Settings(
        model=str(add_adapters(build_tiny(tmp_path / "other", seed=3))),
        jobs=settings.jobs,
        device="cpu",
    )
    started = Lineup.load(other.model, adapter=other.adapter, device="cpu")
    apply(other, started)
    assert started.variant("adapter").adapter == "adapter"
    assert (
        "it was trained on model, and the panes show other" in publishing.problems(other)["adapter"]
    )
    take_back(settings, lineup, "adapter")
    assert publishing.problems(settings) == {}


# ---- the hub -------------------------------------------------------------------------------------


@contextmanager
def fake_hub(status: int = 200) -> Iterator[tuple[str, dict[str, object]]]:
    """A server that takes a repository and one commit, as the hub's interface has it."""
    got: dict[str, object] = {"files": {}}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self._body()
            got["authorization"] = self.headers["Authorization"]
            if status != 200:
                return self._answer({"error": "no"})
            if self.path == "/api/repos/create":
                got["repository"] = json.loads(body)
                return self._answer({"url": f"{address}/owner/name"})
            if "/preupload/" in self.path:
                files = json.loads(body)["files"]
                modes = [
                    {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for one in files
                ]
                return self._answer({"files": modes})
            if "/commit/" not in self.path:  # whether the card's head is sound
                return self._answer({"errors": [], "warnings": []})
            for line in body.decode().splitlines():
                row = json.loads(line)
                if row["key"] == "file":
                    content = base64.b64decode(row["value"]["content"])
                    got["files"][row["value"]["path"]] = content
            return self._answer(
                {"commitUrl": f"{address}/owner/name/commit/{'a' * 40}", "commitOid": "a" * 40}
            )

        def _body(self) -> bytes:
            if "Content-Length" in self.headers:
                return self.rfile.read(int(self.headers["Content-Length"]))
            parts = []  # in chunks, each with its size in hexadecimal before it
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _answer(self, value: object) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words: object) -> None:
            pass

    with http_server(Handler) as address:
        yield address, got


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_what_is_pushed_is_the_folder_with_a_card(
    jobs: Jobs, made: dict[str, str], token: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = jobs.adapter(made["qvla"])
    (folder / ".hidden.json").write_text("{}", encoding="utf-8")
    (folder / "weights.bin").write_bytes(b"a pickle, perhaps")
    with fake_hub() as (address, got):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        assert push(folder, "owner/name", private=True).endswith("owner/name")
    assert got["authorization"] == "Bearer hf_made_up"
    assert got["repository"]["visibility"] == "private"
    names = {"README.md", "adapter_config.json", "adapter_model.safetensors", "run.json"}
    assert set(got["files"]) == names
    assert {file.name for file in pushed_files(folder)} == names - {"README.md"}
    for name in names - {"README.md"}:
        assert got["files"][name] == (folder / name).read_bytes()
    card = got["files"]["README.md"].decode()
    assert card == model_card(folder, "owner/name")
    _, head, text = card.split("---\n", 2)
    about = yaml.safe_load(head)
    assert about["library_name"] == "peft" and "base_model" not in about  # a folder is no hub id
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert f"{run['parameters']['trained']:,}" in text and "QVLA_NF4_ADAPTER=owner/name" in text
    for content in got["files"].values():
        assert str(jobs.folder(made["qvla"]).parent).encode() not in content  # this machine's


def test_a_card_names_a_base_on_the_hub_and_its_licence(
    jobs: Jobs, made: dict[str, str], tmp_path: Path
) -> None:
    run = json.loads((jobs.adapter(made["lora"]) / "run.json").read_text(encoding="utf-8"))
    run["recipe"]["model"] = "google/paligemma-3b-pt-224"
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    about = yaml.safe_load(model_card(tmp_path, "owner/name").split("---\n")[1])
    assert about["base_model"] == "google/paligemma-3b-pt-224"
    assert (about["base_model_relation"], about["license"]) == ("adapter", "gemma")


@pytest.mark.parametrize(
    ("status", "name", "sentence"),
    [
        (403, "owner/name", "does not let"),
        (500, "owner/name", "500"),
        (200, "no name", "owner/name"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    jobs: Jobs,
    made: dict[str, str],
    token: None,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    name: str,
    sentence: str,
) -> None:
    with fake_hub(status) as (address, _):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        with pytest.raises(PushError, match=sentence) as refusal:
            push(jobs.adapter(made["lora"]), name)
    assert "hf_made_up" not in str(refusal.value)


def test_without_a_token_nothing_is_tried(
    jobs: Jobs, made: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qvla.commits.get_token", lambda: None)
    with pytest.raises(PushError, match="HF_TOKEN"):
        push(jobs.adapter(made["lora"]), "owner/name")
