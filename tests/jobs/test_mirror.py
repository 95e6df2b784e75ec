"""Adapters and records in a repository as well, against a hub on this machine."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qvla.jobs import publishing
from qvla.jobs.mirror import Mirror, mirror_of, problems
from qvla.jobs.places import places_of
from qvla.jobs.service import Jobs
from qvla.jobs.store import JobState, Store
from qvla.methods.recipe import make_recipe
from qvla.settings import Settings, SettingsError, load_settings
from tests.support.hub_server import TOKEN, HubServer, hub_server, known_here

# The library's own way to put large files.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

STORE = "someone/kept"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server(tmp_path / "at-hub") as server:
        known_here(server, tmp_path / "hf", monkeypatch)
        yield server


def home(folder: Path) -> Settings:
    return load_settings(home=folder, store=f"hub:{STORE}")


def mirror(settings: Settings, tries: int = 1) -> Mirror:
    return Mirror(settings, STORE, pauses=[0.0] * (tries - 1))


def add_job(settings: Settings, state: JobState = JobState.DONE, **values: Any) -> str:
    """A job that has ended, with what a run leaves; no model is trained."""
    usual = {"method": "lora", "model": "google/any", "data": "owner/photos", "output": "none"}
    job = Jobs(settings).submit(make_recipe(**{**usual, **values}), "admin")
    folder = settings.jobs / job.id
    (folder / "adapter").mkdir()
    (folder / "adapter" / "run.json").write_text("{}")
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(bytes(range(256)))
    (folder / "adapter" / "training_args.bin").write_bytes(b"a pickle")
    (folder / "adapter" / ".hidden.json").write_text("{}")
    (folder / "adapter" / "link.json").symlink_to("/etc/hostname")
    (folder / "adapter.events.jsonl").write_text('{"event": "end"}\n')
    store = Store(places_of(settings).database_url)
    assert store.finish(store.claim(job.id, "here"), state, log="It said so.")
    store.close()
    return job.id


def add_record(settings: Settings, name: str = "20260101-one.json") -> None:
    settings.records.mkdir(parents=True, exist_ok=True)
    (settings.records / name).write_text('{"what": "a test"}')


def test_what_was_made_comes_back_to_an_empty_home(tmp_path: Path, hub: HubServer) -> None:
    first = home(tmp_path / "first")
    done = add_job(first)
    failed, whole = add_job(first, JobState.FAILED), add_job(first, method="full")
    add_record(first)
    one = publishing.Published(done, str(first.jobs / done / "adapter"), "google/any")
    published = first.jobs / publishing.FILE
    published.write_text(json.dumps({"adapter": vars(one)}))
    assert mirror(first).push()
    there = hub.state.files[STORE]
    assert hub.state.private[STORE] and problems(first) == []
    of_job = {"job.json", "recipe.yaml", "adapter.events.jsonl"}
    of_job |= {"adapter/run.json", "adapter/adapter_model.safetensors"}
    kept = {f"jobs/{done}/{name}" for name in of_job}
    assert set(there) == kept | {"records/20260101-one.json", "jobs/published.json"}
    assert len(hub.state.commits[STORE][0]) == len(of_job)  # all of a job, or nothing

    # What others have laid there is not even asked for.
    foreign = [f"jobs/{done}/adapter/model.bin", "records/a/../../x.json", "jobs/x/job.json"]
    foreign += ["records/run.py", f"jobs/{done}/adapter/deep/a.json", f"jobs/{failed}/job.json"]
    there |= dict.fromkeys(foreign, b"{}")
    second = home(tmp_path / "second")
    new = mirror(second)
    hub.state.asked.clear()
    new.fetch()
    assert problems(second) == []
    fetched = {path for _, path in hub.state.asked if "/resolve/" in path}
    assert not any(name in path for path in fetched for name in foreign[:5])
    then, now = Jobs(first).get(done), Jobs(second).get(done)
    assert [job.id for job in Jobs(second).all()] == [done]
    assert (now.state, now.owner, now.log) == (JobState.DONE, "admin", "It said so.")
    assert (now.recipe, now.created, now.finished) == (then.recipe, then.created, then.finished)
    adapter = Jobs(second).adapter(done)
    assert (adapter / "adapter_model.safetensors").read_bytes() == bytes(range(256))
    assert (second.records / "20260101-one.json").read_text() == '{"what": "a test"}'
    assert publishing.published(second)["adapter"].folder == str(adapter)
    assert whole not in str(sorted(second.home.rglob("*")))
    assert not list(second.home.glob(".fetched-*"))

    # What is known to be there is not written again; what is there is not fetched over.
    before = len(hub.state.commits[STORE])
    assert new.push() and mirror(first).push() and mirror(second).push()
    assert hub.state.commits[STORE][before:] == []


def test_a_home_that_is_not_empty_is_not_filled(tmp_path: Path, hub: HubServer) -> None:
    first, second = home(tmp_path / "first"), home(tmp_path / "second")
    add_job(first)
    mirror(first).push()
    add_record(second)
    other = mirror(second)
    other.fetch()
    assert Jobs(second).all() == [] and other.push()
    assert "records/20260101-one.json" in hub.state.files[STORE]


def test_a_job_that_is_deleted_here_is_deleted_there(tmp_path: Path, hub: HubServer) -> None:
    settings = home(tmp_path / "home")
    gone, stays = add_job(settings), add_job(settings)
    kept = mirror(settings)
    assert kept.push()
    Jobs(settings).delete(gone)
    shutil.rmtree(settings.home / "records", ignore_errors=True)
    assert kept.push()
    assert not [name for name in hub.state.files[STORE] if gone in name]
    assert [name for name in hub.state.files[STORE] if stays in name]


def test_a_commit_is_tried_again_while_what_is_wrong_may_pass(
    tmp_path: Path, hub: HubServer
) -> None:
    settings = home(tmp_path / "home")
    add_job(settings)
    add_record(settings)
    hub.state.refused_once = [("POST .*/commit/", status) for status in (409, 412, 429, 503)]
    assert mirror(settings, tries=5).push()
    assert not hub.state.refused_once and problems(settings) == []
    assert [len(paths) for paths in hub.state.commits[STORE]] == [5, 1]


def test_what_could_not_be_written_is_told_and_written_later(
    tmp_path: Path,
    hub: HubServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = home(tmp_path / "home")
    add_job(settings)
    add_record(settings)
    kept = mirror(settings)
    caplog.set_level(logging.DEBUG, "qvla")
    hub.state.refuse = [("POST .*/commit/", 403, "")]
    assert not kept.push()
    (sentence,) = problems(settings)
    assert sentence.startswith(f"6 files are not in {STORE} yet: ") and "token write" in sentence
    hub.state.refuse = []
    hub.down()
    assert not mirror(settings).push() and "check the connection" in problems(settings)[0]
    hub.up()
    monkeypatch.delenv("HF_TOKEN")
    assert not kept.push() and "no token" in problems(settings)[0]
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert not kept.push()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert kept.push() and problems(settings) == []
    assert len(hub.state.files[STORE]) == 6
    assert TOKEN not in caplog.text and "hf_another" not in caplog.text


def test_what_could_not_be_fetched_at_the_start_is_fetched_before_anything_is_written(
    tmp_path: Path, hub: HubServer
) -> None:
    first, second = home(tmp_path / "first"), home(tmp_path / "second")
    done = add_job(first)
    mirror(first).push()
    late = mirror(second)
    hub.state.refuse = [("GET", 503, "")]
    late.fetch()
    assert "could not be fetched" in problems(second)[0]
    add_record(second)
    assert not late.push() and len(hub.state.commits[STORE]) == 1
    hub.state.refuse = []
    assert late.push() and Jobs(second).adapter(done) is not None
    assert "records/20260101-one.json" in hub.state.files[STORE]


def test_what_was_made_just_before_the_end_is_written_too(tmp_path: Path, hub: HubServer) -> None:
    settings = home(tmp_path / "home")
    kept = mirror_of(settings)
    kept.fetch()
    kept.start()
    add_record(settings)
    kept.close()
    assert set(hub.state.files[STORE]) == {"records/20260101-one.json"}


def test_a_space_that_keeps_nothing_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(home=tmp_path / "home")
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert problems(settings) == []
    monkeypatch.setenv("SPACE_ID", "someone/space")
    mounted = {"/"}
    monkeypatch.setattr("os.path.ismount", lambda path: str(path) in mounted)
    (sentence,) = problems(settings)
    assert "QVLA_HOME" in sentence and "QVLA_STORE" in sentence
    assert problems(home(tmp_path / "home")) == []
    mounted.add(str(tmp_path))
    assert problems(settings) == []


def test_the_setting_names_a_repository_or_nothing(tmp_path: Path) -> None:
    assert mirror_of(load_settings(home=tmp_path)) is None
    for wrong in ("someone/kept", "hub:kept", "hub:../kept", "hub:a/b/c", "s3://a/b"):
        with pytest.raises(SettingsError, match="QVLA_STORE"):
            load_settings(home=tmp_path, store=wrong)
