"""The admin tab from outside: every endpoint over raw HTTP, with rights and without."""

from __future__ import annotations

import io
import re
import sqlite3
import zipfile
from collections.abc import Iterator
from functools import cache
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from gradio.helpers import special_args
from gradio.utils import get_upload_folder
from gradio_client import Client, handle_file
from pydantic import SecretStr

from qvla.captioning.decoding import Decoding
from qvla.captioning.engine import caption
from qvla.captioning.lineup import Lineup
from qvla.captioning.loader import LineupLoader
from qvla.cli.main import parse
from qvla.data.imagery import open_image
from qvla.jobs import mirror, publishing
from qvla.jobs.places import places_of
from qvla.jobs.service import Jobs
from qvla.jobs.store import JobState, Store
from qvla.settings import Settings
from qvla.ui.admin.actions import EVALUATION, JobActions
from qvla.ui.admin.form import FIELDS
from qvla.ui.app import build, work_on_jobs
from qvla.ui.background import TASKS, State
from qvla.ui.measured.evaluations import find_evaluations
from tests.support.damaged_store import rubbish
from tests.support.fine_tuned import finished_job, tiny_recipe
from tests.support.servers import free_port
from tests.support.serving import add_adapters, served, write_photo, write_risc_folder
from tests.support.tiny import build_tiny
from tests.support.waiting import PATIENCE

PASSWORD = "open sesame"
OWNER = "somebody-in-particular"
ROWS = [
    ("UCM", "val" if n > 5 else "train", f"{n}.png", ["many green trees", "a river"])
    for n in range(8)
]
LINK = "l" * 32
VISIT = "of-these-tests"
FORGED = {
    "another proxy's": {"X-Cluster-Client-IP": "127.0.0.1", "Fly-Client-IP": "127.0.0.1"},
    "forwarded": {"X-Forwarded-For": "127.0.0.1"},
    "real ip": {"X-Real-IP": "127.0.0.1"},
    "host": {"Host": "admin.example"},
    "origin": {"Origin": "http://evil.example"},
}


# ---- the app -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("admin")
    write_risc_folder(home / "outside", ROWS)
    data = write_risc_folder(home / "risc", ROWS)
    (home / "roots").mkdir()
    (home / "roots" / "escape").symlink_to(home / "outside")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SPACE_ID", raising=False)
        return Settings(
            model=str(add_adapters(build_tiny(home / "model"))),
            data=data,
            data_roots=(home / "roots",),
            jobs=home / "jobs-of-this-app",
            records=home / "records",
            store="hub:someone/kept",
            admin_password=PASSWORD,
            device="cpu",
            port=free_port(),
        )


@pytest.fixture(scope="module")
def loader(settings: Settings) -> LineupLoader:
    loader = LineupLoader.of(settings, then=publishing.apply).start()
    assert loader.wait(PATIENCE) is not None
    return loader


@pytest.fixture(scope="module")
def jobs(settings: Settings) -> Jobs:
    return Jobs(settings)


@pytest.fixture(scope="module")
def done(settings: Settings, jobs: Jobs) -> str:
    """A finished adapter, and an unfinished job behind it."""
    job = finished_job(settings, jobs, tiny_recipe(settings), OWNER)
    jobs.submit(tiny_recipe(settings), OWNER)
    return job.id


@pytest.fixture(scope="module")
def address(settings: Settings, loader: LineupLoader, done: str) -> Iterator[str]:
    with served(settings, loader) as address:
        yield address


@pytest.fixture(scope="module")
def local(settings: Settings, loader: LineupLoader, done: str) -> Iterator[str]:
    """The same app without a password: for who opens its link."""
    changes = {"admin_password": None, "admin_link": SecretStr(LINK), "port": free_port()}
    own = settings.model_copy(update=changes)
    with served(own, loader) as address:
        yield address


@pytest.fixture(scope="module")
def token(address: str) -> str:
    return signed_in(address)


def signed_in(address: str) -> str:
    [token] = re.findall(r'"([\w-]{43})"', post(address, "admin_sign_in", [PASSWORD]))
    return token


def post(
    address: str, name: str, data: list[Any], visit: str | None = VISIT, **headers: str
) -> str:
    """One call as curl makes it; the raw answer.

    Nothing here is encrypted, and reading the certificates for it would take most of the time.
    Calls are of one visit, but of a new one with None: for each Gradio writes down the whole page.
    """
    url = f"{address}gradio_api/call/{name}"
    with httpx.Client(timeout=PATIENCE, headers=headers, verify=False) as client:
        asked = client.post(url, json={"data": data, "session_hash": visit})
        assert asked.status_code == 200, asked.text
        return client.get(f"{url}/{asked.json()['event_id']}").text


def post_as_the_page_does(address: str, number: int, data: list[Any], **headers: str) -> str:
    """One call by the event's number, through the queue that browsers join."""
    body = {"data": data, "fn_index": number, "session_hash": VISIT}
    with httpx.Client(timeout=PATIENCE, headers=headers, verify=False) as client:
        joined = client.post(f"{address}gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            return joined.text
        url = f"{address}gradio_api/queue/data?session_hash={VISIT}"
        with client.stream("GET", url) as stream:
            lines = []
            for line in stream.iter_lines():
                lines.append(line)
                if "process_completed" in line or "close_stream" in line:
                    break
        return "\n".join(lines)


class Endpoint:
    """One event that touches anything of the tab, as the app's own configuration tells of it."""

    def __init__(self, dependency: dict[str, Any], components: dict[int, Any], job: str) -> None:
        self.name, self.number = dependency["api_name"], dependency["id"]
        self._inputs = [components[one] for one in dependency["inputs"]]
        self._job = job

    def data(self, token: Any) -> list[Any]:
        return [self._value(one, token) for one in self._inputs]

    def _value(self, component: dict[str, Any], token: Any) -> Any:
        if component["type"] == "browserstate":
            return token
        if component["props"].get("elem_id") == "job-list":
            return self._job
        if component["props"].get("elem_id") == "job-repository":
            return "not a repository"
        return component["props"].get("value")


def endpoints(address: str, job: str) -> list[Endpoint]:
    config = httpx.get(f"{address}config", timeout=PATIENCE, verify=False).json()
    components = {one["id"]: one for one in config["components"]}
    inside = set(_below(_tab(config["layout"], components)))
    found = []
    for dependency in config["dependencies"]:
        touched = {*dependency["inputs"], *dependency["outputs"]}
        touched |= {target for target, _ in dependency["targets"]}
        if dependency["backend_fn"] and touched & inside:
            found.append(Endpoint(dependency, components, job))
    return found


def _tab(node: dict[str, Any], components: dict[int, Any]) -> dict[str, Any]:
    if components.get(node["id"], {}).get("props", {}).get("elem_id") == "admin-tab":
        return node
    found = [_tab(child, components) for child in node.get("children", [])]
    return next((one for one in found if one), {})


def _below(node: dict[str, Any]) -> Iterator[int]:
    for child in node.get("children", []):
        yield child["id"]
        yield from _below(child)


def state_of_everything(settings: Settings, jobs: Jobs, loader: LineupLoader) -> Any:
    files = {
        str(path.relative_to(settings.jobs)): path.stat().st_size
        for path in settings.jobs.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }
    packed = Path(get_upload_folder()) / "jobs"
    return (
        jobs.all(),
        {name: size for name, size in files.items() if "sqlite" not in name},
        [variant.adapter for variant in loader.lineup.variants()],
        TASKS.last,
        sorted(map(str, packed.rglob("*"))) if packed.is_dir() else [],
    )


def secrets_of(settings: Settings, jobs: Jobs) -> list[str]:
    """What of the jobs nobody may hear without rights."""
    words = [OWNER, settings.jobs.name, "one thing", "Fine-tune jobs"]
    return words + [job.id for job in jobs.all()] + [job.id[-8:] for job in jobs.all()]


# ---- without rights ------------------------------------------------------------------------------

OPEN_TO_ALL = {
    *("admin_sign_in", "admin_sign_out", "admin_open_link"),
    # which fill the form with what their sender chose, and read nothing
    "explore_send",
    "explore_tune",
}


def test_the_page_itself_tells_nothing_of_the_jobs(
    address: str, settings: Settings, jobs: Jobs
) -> None:
    words = [*secrets_of(settings, jobs), PASSWORD, str(settings.data)]
    for path in ("", "config", "gradio_api/info", "gradio_api/info?all_endpoints=true"):
        text = httpx.get(f"{address}{path}", timeout=PATIENCE, verify=False).text
        assert [word for word in words if word in text] == []


@pytest.mark.parametrize(
    ("held", "by"),
    [
        (None, "name"),
        ("x" * 43, "number"),
        pytest.param(None, "number", marks=pytest.mark.slow),
        pytest.param("x" * 43, "name", marks=pytest.mark.slow),
        pytest.param({}, "name", marks=pytest.mark.slow),
    ],
)
def test_every_endpoint_refuses_who_has_no_session(
    address: str,
    settings: Settings,
    loader: LineupLoader,
    jobs: Jobs,
    done: str,
    held: Any,
    by: str,
) -> None:
    found = [one for one in endpoints(address, done) if one.name not in OPEN_TO_ALL]
    assert len(found) > 15 and all(one.name.startswith("admin_") for one in found)
    before = state_of_everything(settings, jobs, loader)
    untold = secrets_of(settings, jobs)
    for one in found:
        if by == "name":
            answer = post(address, one.name, one.data(held))
        else:
            answer = post_as_the_page_does(address, one.number, one.data(held))
        assert "Sign in first" in answer, one.name
        assert [word for word in untold if word in answer.replace(done, "")] == []
    assert state_of_everything(settings, jobs, loader) == before


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(headers, id=name, marks=() if place == 0 else pytest.mark.slow)
        for place, (name, headers) in enumerate(FORGED.items())
    ],
)
def test_forged_headers_do_not_help(
    address: str,
    local: str,
    settings: Settings,
    loader: LineupLoader,
    jobs: Jobs,
    done: str,
    headers: dict[str, str],
) -> None:
    """Neither where only this machine may nor where there is a password."""
    before = state_of_everything(settings, jobs, loader)
    found = [one for one in endpoints(local, done) if one.name not in OPEN_TO_ALL]
    for where, some in ((local, found), (address, found[:3])):
        for one in some:
            answer = post(where, one.name, one.data(None), **headers)
            assert re.search("Sign in first|another web page", answer), one.name
    assert state_of_everything(settings, jobs, loader) == before


def test_a_session_ends_with_signing_out_and_with_the_app(
    address: str, settings: Settings, loader: LineupLoader, done: str
) -> None:
    [token] = re.findall(r'"([\w-]{43})"', post(address, "admin_sign_in", [PASSWORD]))
    assert done in post(address, "admin_open", [token, None])
    assert "signed out" in post(address, "admin_sign_out", [token])
    assert "Sign in first" in post(address, "admin_open", [token, None])
    [token] = re.findall(r'"([\w-]{43})"', post(address, "admin_sign_in", [PASSWORD]))
    with served(settings.model_copy(update={"port": free_port()}), loader) as restarted:
        assert "Sign in first" in post(restarted, "admin_open", [token, None])


def test_a_wrong_password_says_so_and_opens_nothing(address: str, done: str) -> None:
    answer = post(address, "admin_sign_in", ["guess"])
    assert "The password is wrong" in answer and done not in answer
    assert not re.findall(r'"([\w-]{43})"', answer)


def test_files_of_jobs_are_served_to_nobody(address: str, jobs: Jobs, done: str) -> None:
    for file in jobs.folder(done).rglob("*"):
        assert httpx.get(f"{address}gradio_api/file={file}", verify=False).status_code in (403, 404)


def test_on_a_space_accounts_count(
    settings: Settings, loader: LineupLoader, done: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACE_ID", "owner/space")
    own = settings.model_copy(update={"admins": ("ada",), "port": free_port()})
    with served(own, loader) as address:  # without OAuth nobody is anybody, but the app opens
        answer = post(address, "admin_open", [None, None], Origin=address.rstrip("/"))
        assert "Sign in with your Hugging Face account" in answer and done not in answer
        assert "hf_oauth" in httpx.get(address, verify=False).text
    monkeypatch.setenv("SYSTEM", "spaces")
    monkeypatch.setenv("OAUTH_CLIENT_ID", "client")
    # What Gradio signs accounts in with is installed on Spaces; what it makes of a session is not
    # part of that.
    monkeypatch.setattr("qvla.ui.admin.gate.find_spec", lambda name: object())
    monkeypatch.setattr("gradio.routes.attach_oauth", lambda app: None)
    app = build(own, loader)
    [handler] = [event.fn for event in app.fns.values() if event.api_name == "admin_open"]
    for name, allowed in ((None, False), ("eve", False), ("ada", True)):
        info = dict.fromkeys(("name", "preferred_username", "profile", "picture"), name)
        session = {} if name is None else {"oauth_info": {"userinfo": info, "access_token": "t"}}
        request = SimpleNamespace(
            headers={"host": "owner-space.hf.space", "x-forwarded-for": "10.0.0.1"},
            client=SimpleNamespace(host="10.0.0.2"),
            session=session,
        )
        arguments, *_ = special_args(handler, [None, done], request)
        shown = " ".join(one for one in handler(*arguments).values() if isinstance(one, str))
        assert (f"job {done[-8:]}" in shown and "Signed in as <b>ada</b>" in shown) is allowed


# ---- with rights ---------------------------------------------------------------------------------


def test_the_same_calls_work_for_an_admin(
    address: str, local: str, token: str, jobs: Jobs, done: str
) -> None:
    assert "link that the app printed" in post(local, "admin_open", [None, None])
    [by_link] = re.findall(r'"([\w-]{43})"', post(local, "admin_open_link", [LINK]))
    assert "Start the app again" in post(local, "admin_open_link", [LINK])  # it is good once
    for where, held in ((address, token), (local, by_link)):
        for name in ("admin_open", "admin_look", "admin_pick"):
            answer = post(where, name, [held, done], visit=None)  # which has seen nothing yet
            assert done in answer and OWNER in answer and "one thing" in answer
            assert "many green trees" in answer  # what people said of the sample photos


@cache
def blank_form(address: str) -> dict[str, Any]:
    [submit] = [one for one in endpoints(address, "") if one.name == "admin_submit"]
    return dict(zip((field.name for field in FIELDS), submit.data(None)[1:], strict=True))


def form(address: str, settings: Settings, **values: Any) -> list[Any]:
    """The form as the page has it, filled in with these."""
    fields = {**blank_form(address), "model": settings.model, "data": str(settings.data)}
    return list((fields | values).values())


def test_a_fine_tune_is_queued_as_the_form_says(
    address: str, token: str, settings: Settings, jobs: Jobs
) -> None:
    values = form(address, settings, epochs=2, batch_size=3, layers="0, 1-2", seed=5, rank=999)
    preview = post(address, "admin_preview_of_form", [token, *values])
    assert "python -m qvla train --method adapter" in preview and "--batch-size 3" in preview
    answer = post(address, "admin_submit", [token, *values])
    assert "queued" in answer
    job = jobs.all()[0]
    assert job.owner == "admin" and job.recipe["epochs"] == 2 and job.recipe["seed"] == 5
    assert job.recipe["layers"] == [0, 1, 2]
    assert job.recipe["rank"] == 16  # of LoRA, which this is not
    assert Path(job.recipe["output"]) == jobs.folder(job.id) / "adapter"
    assert "There is no" not in post(address, "admin_cancel", [token, job.id])
    assert jobs.get(job.id).state.value == "cancelled"
    post(address, "admin_resume", [token, job.id])
    assert jobs.get(job.id).state.value == "queued"
    post(address, "admin_cancel", [token, job.id])
    post(address, "admin_ask_to_delete", [token, job.id])
    assert jobs.get(job.id)  # asked once more first
    post(address, "admin_delete", [token, job.id])
    assert job.id not in [one.id for one in jobs.all()]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"data": "/etc"}, "neither a hub id nor in a folder"),
        ({"data": "{home}/outside"}, "neither a hub id nor in a folder"),
        ({"data": "{home}/nowhere"}, "neither a hub id nor in a folder"),
        ({"data": "{home}/roots/escape"}, "neither a hub id nor in a folder"),
        ({"data": "{home}/risc/../outside"}, "neither a hub id nor in a folder"),
        ({"data": "\0"}, "neither a hub id nor in a folder"),
        ({"data": ["/etc"]}, "Name the data"),
        ({"model": "{home}/outside"}, "neither a hub id nor in a folder"),
        ({"model": "/"}, "neither a hub id nor in a folder"),
        ({"splits": "trian"}, "no row in the split 'trian'"),
        ({"splits": ""}, "splits cannot be"),
        ({"optimiser": "adamw_8bit"}, "needs a CUDA GPU"),
        ({"batch_size": 0}, "batch_size cannot be"),
        ({"layers": "9"}, "cannot name layer 9"),
        ({"layers": "all but one"}, "layers are numbers"),
        ({"learning_rate": "fast"}, "learning_rate cannot be"),
        ({"method": "lora", "lora_targets": "w_proj"}, "no projection 'w_proj'"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_sentence_and_no_job(
    address: str,
    token: str,
    settings: Settings,
    jobs: Jobs,
    values: dict[str, Any],
    sentence: str,
) -> None:
    home = settings.jobs.parent
    values = {
        name: value.format(home=home) if isinstance(value, str) else value
        for name, value in values.items()
    }
    before = jobs.all()
    for name in ("admin_preview_of_form", "admin_submit"):
        answer = post(address, name, [token, *form(address, settings, **values)])
        assert sentence in _said(answer), answer
    assert jobs.all() == before


def test_without_data_nothing_is_wrong_yet_and_nothing_can_be_sent(
    address: str, token: str, settings: Settings, jobs: Jobs
) -> None:
    values = form(address, settings, data="")
    preview = post(address, "admin_preview_of_form", [token, *values])
    assert "upload a zip" in preview and 'role=\\"alert' not in preview
    assert '"interactive": false' in preview
    before = jobs.all()
    assert "Name the data" in _said(post(address, "admin_submit", [token, *values]))
    assert jobs.all() == before


def test_an_upload_that_is_no_archive_is_one_sentence(
    address: str, token: str, settings: Settings
) -> None:
    sent = httpx.post(f"{address}gradio_api/upload", files={"files": ("a.zip", b"no archive")})
    file = {"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}
    assert "no zip archive" in _said(post(address, "admin_upload", [token, [file]]))
    assert "neither" not in post(address, "admin_upload", [token, None])
    assert not settings.uploads.exists() or not list(settings.uploads.iterdir())


def test_a_job_is_named_and_its_recipe_fills_the_form(
    address: str, token: str, jobs: Jobs, done: str
) -> None:
    answer = post(address, "admin_label", [token, done, " <b>Rivers</b> ", "Rank 8\nagain"])
    assert "are kept" in answer and "&lt;b&gt;Rivers" in answer
    assert "<b><b>" not in answer and "<h3><b>" not in answer
    assert (jobs.get(done).name, jobs.get(done).note) == ("<b>Rivers</b>", "Rank 8\nagain")
    for name, note, sentence in (
        ("x" * 81, "", "has 81 characters, and 80 may be"),
        ("a\nb", "", "control characters"),
        ("a\u202eb", "", "control characters"),
        ("", "bell \x07", "control characters"),
    ):
        answer = post(address, "admin_label", [token, done, name, note])
        assert sentence in answer or "error" in answer, answer
        assert jobs.get(done).name == "<b>Rivers</b>"
    filled = post(address, "admin_duplicate", [token, done])
    recipe = jobs.get(done).recipe
    assert recipe["max_steps"] and f'"value": {recipe["max_steps"]}' in filled
    assert "event: error" in post(address, "admin_duplicate", [token, "nobody"])
    post(address, "admin_label", [token, done, "", ""])


def _said(answer: str) -> str:
    """The problem at the form, with its entities undone."""
    [said] = set(re.findall(r'role=\\"alert\\">(.*?)</p>', answer))
    return unescape(said)


def test_a_download_is_the_adapter_whole(address: str, token: str, jobs: Jobs, done: str) -> None:
    answer = post(address, "admin_download", [token, done])
    [url] = set(re.findall(r'"url": "([^"]+\.zip)"', answer))
    with zipfile.ZipFile(io.BytesIO(httpx.get(url, verify=False).content)) as packed:
        folder = jobs.adapter(done)
        assert sorted(packed.namelist()) == sorted(one.name for one in folder.iterdir())
        for name in packed.namelist():
            assert packed.read(name) == (folder / name).read_bytes()
    assert "not done" in post(address, "admin_download", [token, jobs.all()[0].id])


def said(loader: LineupLoader, variant: str, photo: Path) -> str:
    [answer] = caption(loader.lineup, [open_image(photo)], [variant], Decoding(max_new_tokens=12))
    return answer[variant].text


def test_an_adapter_goes_live_and_is_taken_back(
    address: str,
    token: str,
    settings: Settings,
    loader: LineupLoader,
    jobs: Jobs,
    done: str,
    tmp_path: Path,
) -> None:
    photo = write_photo(tmp_path / "photo.png", seed=7)
    before = {name: said(loader, name, photo) for name in ("base", "adapter", "qvla")}
    try:
        answer = post(address, "admin_publish", [token, done])
        assert "The Adapter pane answers with this adapter now" in answer
        name = f"job {done[-8:]}"
        assert loader.lineup.variant("adapter").adapter == name
        now = {one: said(loader, one, photo) for one in before}
        assert now["adapter"] != before["adapter"]
        assert (now["base"], now["qvla"]) == (before["base"], before["qvla"])
        assert "take it back first" in post(address, "admin_delete", [token, done])
        assert jobs.get(done)
        # a restart of the app changes nothing
        restarted = LineupLoader.of(settings, then=publishing.apply).start()
        assert restarted.wait(PATIENCE).variant("adapter").adapter == name
        assert said(restarted, "adapter", photo) == now["adapter"]
    finally:
        post(address, "admin_take_back", [token, done])
    assert {one: said(loader, one, photo) for one in before} == before
    assert loader.lineup.variant("adapter").adapter == "adapter"
    assert publishing.published(settings) == {}


def test_an_adapter_gets_a_pane_of_its_own_and_loses_it(
    address: str, token: str, loader: LineupLoader, done: str
) -> None:
    before, name = loader.lineup.names(), f"job-{done[-8:]}"
    try:
        assert "has a pane of its own now" in post(address, "admin_add_pane", [token, done])
        assert [one.name for one in loader.contenders] == [*before, name]
        assert loader.lineup.variant(name).available
        assert "take it back first" in post(address, "admin_add_pane", [token, done])
        assert "take it back first" in post(address, "admin_delete", [token, done])
        assert "pane of its own" in post(address, "admin_open", [token, done])
        assert "QVLA_BANK" in post(address, "admin_add_to_bank", [token, done])
    finally:
        assert "Its pane is gone" in post(address, "admin_take_back", [token, done])
    assert loader.lineup.names() == before


def test_what_cannot_be_published_again_falls_back_with_a_sentence(
    address: str, token: str, settings: Settings, loader: LineupLoader, jobs: Jobs, done: str
) -> None:
    folder = jobs.adapter(done)
    away = folder.with_name("away")
    post(address, "admin_publish", [token, done])
    try:
        folder.rename(away)
        restarted = LineupLoader.of(settings, then=publishing.apply).start()
        assert restarted.wait(PATIENCE).variant("adapter").adapter == "adapter"
        told = publishing.problems(settings)["adapter"]
        assert "answers as the settings say" in told and told.count("\n") == 0
        away.rename(folder)
        assert "answers as the settings say" in post(address, "admin_open", [token, done])
    finally:
        if away.exists():
            away.rename(folder)
        post(address, "admin_take_back", [token, done])


def test_what_is_not_in_the_repository_yet_is_said_above_the_jobs(
    address: str, token: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qvla.commits.get_token", lambda: None)
    monkeypatch.setattr(mirror, "_problems", {})
    assert not mirror.mirror_of(settings).push()
    said = "not in someone/kept yet: This machine has no token"
    assert said in post(address, "admin_open", [token, None])
    assert said not in post(address, "admin_open", ["not a token", None])


def test_evaluating_is_the_command_of_the_cider_tab(
    settings: Settings, jobs: Jobs, done: str
) -> None:
    """As the command line itself understands it; the browser test runs one."""
    options = parse(JobActions(settings, None, TASKS).evaluation_command(jobs, done, 2))
    assert Path(options.adapter) == jobs.adapter(done)
    assert (options.split, options.limit, options.data) == ("val", 2, str(settings.data))
    assert list(options.variant) == ["base", "adapter"]


def test_pushing_without_a_token_is_one_sentence(
    address: str, token: str, done: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qvla.commits.get_token", lambda: None)
    assert "owner/name" in post(address, "admin_push", [token, done, "one/two/three", True])
    assert "HF_TOKEN" in post(address, "admin_push", [token, done, "one/two", True])


@pytest.mark.slow
def test_an_evaluation_runs_beside_the_app_and_shows_in_the_cider_tab(
    address: str, token: str, settings: Settings, done: str
) -> None:
    """The real command, in a process of its own."""
    started = post(address, "admin_evaluate", [token, done, 2])
    assert EVALUATION in started
    others = post(address, "cider_measuring_on_open", [])  # what everybody sees of it
    assert EVALUATION in others and done[-8:] not in others
    status = TASKS.last.wait(PATIENCE)
    assert status.state is State.DONE, status.message
    shown = post(address, "admin_look", [token, done], visit=None)
    assert f"{EVALUATION}: done" in shown
    assert "CIDEr on 2 photos: " in shown and "#tab-cider" in shown
    [evaluation] = find_evaluations(settings, pytest.fail)
    assert evaluation.title.startswith(f"Job {done[-8:]}: ")
    assert (evaluation.photos, evaluation.variants) == (2, ("base", "adapter"))
    assert evaluation.stem in post(address, "cider_open", [None, "standard"])


def test_why_a_job_failed_is_one_sentence_on_the_page(
    address: str, token: str, settings: Settings, jobs: Jobs
) -> None:
    job = jobs.submit(tiny_recipe(settings))
    store = Store(places_of(settings).database_url)
    store.finish(store.claim(job.id, "here:1:1"), JobState.FAILED, "No row is <usable>.")
    store.close()
    answer = post(address, "admin_pick", [token, job.id])
    assert "No row is &lt;usable&gt;." in answer and "<usable>" not in answer
    assert "is deleted" in post(address, "admin_delete", [token, job.id])
    assert "There is no job" in post(address, "admin_resume", [token, job.id])


# ---- a store that is damaged ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def damaged(
    settings: Settings, loader: LineupLoader, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str, Settings]]:
    """The app over a folder of jobs of its own, whose store is then overwritten."""
    place = tmp_path_factory.mktemp("damaged")
    own = settings.model_copy(update={"jobs": place / "jobs", "port": free_port()})
    with served(own, loader) as address:
        yield address, signed_in(address), own


def test_a_damaged_store_is_told_and_set_aside_while_captions_go_on(
    damaged: tuple[str, str, Settings], tmp_path: Path
) -> None:
    address, token, own = damaged
    job = Jobs(own).submit(tiny_recipe(own))
    assert job.id in post(address, "admin_open", [token, None])
    rubbish(own.jobs)
    start_beside(own)  # as at a start of the app: it ends in no fault

    shown = post(address, "admin_open", [token, None])
    assert "is not a database" in shown and "begins an empty list" in shown
    assert str(own.jobs) not in shown
    assert job.id not in shown
    assert "is not a database" in post(address, "admin_delete", [token, job.id])
    photo = write_photo(tmp_path / "photo.png")
    assert Client(address, verbose=False, ssl_verify=False).predict(
        handle_file(photo), api_name="/compare"
    )

    assert "Set aside: 1 file in the folder of jobs" in post(
        address, "admin_set_aside", [token, None]
    )
    assert [path.read_bytes()[:11] for path in own.jobs.glob("jobs.aside-*.sqlite3")] == [
        b"no database"
    ]
    assert "No fine-tune has been queued yet" in post(address, "admin_open", [token, None])
    assert (own.jobs / job.id / "recipe.yaml").is_file()
    new = Jobs(own).submit(tiny_recipe(own))
    assert new.id in post(address, "admin_open", [token, None])


def start_beside(settings: Settings) -> None:
    assert work_on_jobs(settings.model_copy(update={"worker": "off"})) is None


def test_a_folder_of_jobs_that_cannot_be_had_keeps_nobody_from_comparing(
    settings: Settings, loader: LineupLoader, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    own = settings.model_copy(update={"jobs": tmp_path / "file" / "jobs", "port": free_port()})
    start_beside(own)
    with served(own, loader) as address:
        answer = post(address, "admin_open", [signed_in(address), None])
        assert "name another folder in QVLA_JOBS" in answer
    lineup = Lineup.load(
        settings.model, variants=["base"], device="cpu", device_lock=own.device_lock
    )
    [answer] = caption(
        lineup, [open_image(write_photo(tmp_path / "a.png"))], ["base"], Decoding(max_new_tokens=4)
    )
    assert answer["base"].tokens


def test_one_bad_job_is_one_bad_row_of_the_list(
    damaged: tuple[str, str, Settings],
) -> None:
    address, token, own = damaged
    good, bad = (Jobs(own).submit(tiny_recipe(own)) for _ in range(2))
    with sqlite3.connect(own.jobs / "jobs.sqlite3") as file:
        file.execute("UPDATE qvla_jobs SET state = '<b>' WHERE id = ?", [bad.id])
        file.execute(
            "INSERT INTO qvla_jobs SELECT '<i>', state, recipe, owner, created, started, "
            "finished, heartbeat, worker, attempt, reason, log, cancel_requested, deleted, "
            "name, note FROM qvla_jobs WHERE id = ?",
            [bad.id],
        )
    for chosen in (bad.id, "<i>", good.id):
        shown = post(address, "admin_pick", [token, chosen])
        assert good.id in shown and bad.id in shown
        assert shown.count("A job that cannot be read") >= 2
        assert "<i>" not in shown.replace('"<i>"', "") and "state is &#x27;&lt;b&gt;&#x27;" in shown
    for name in (bad.id, "<i>"):
        assert "is deleted" in post(address, "admin_delete", [token, name])
    assert "cannot be read" not in post(address, "admin_open", [token, good.id])
