"""What is said of a Space's disk, by the mounts that it has."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import gradio as gr
import pytest

from qvla.settings import Settings
from qvla.ui.admin.persistence import what_is_lost
from qvla.ui.admin.store_notice import StoreNotice

Mount = namedtuple("Mount", "mountpoint fstype")
OWN = [Mount("/", "overlay"), Mount("/proc", "proc"), Mount("/dev/shm", "tmpfs")]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPACE_ID", "ada/qvla")
    return tmp_path / "not" / "there" / "yet"


def test_the_containers_own_disk_keeps_nothing(home: Path) -> None:
    told = what_is_lost(Settings(home=home), OWN)
    assert told is not None and "lost when this Space restarts" in told
    assert "attach a storage bucket at /data" in told and told.count(". ") == 0


def test_what_the_hub_keeps_is_not_lost(home: Path) -> None:
    told = what_is_lost(Settings(home=home, store="hub:ada/kept"), OWN)
    assert told is not None and "votes" in told and "adapters" not in told


def test_an_attached_volume_keeps_everything(home: Path) -> None:
    volume = Mount(str(home.parents[2]), "fuse")
    assert what_is_lost(Settings(home=home), [*OWN, volume]) is None
    within = Mount(str(home.parents[2]) + "-of-others", "fuse")  # begins alike, and is another
    assert what_is_lost(Settings(home=home), [*OWN, within]) is not None


def test_memory_mounted_as_a_disk_keeps_nothing(home: Path) -> None:
    assert (
        what_is_lost(Settings(home=home), [*OWN, Mount(str(home.parents[2]), "tmpfs")]) is not None
    )


def test_elsewhere_nothing_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACE_ID")
    assert what_is_lost(Settings(home=home), OWN) is None


def test_the_admin_tab_says_it_above_the_jobs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.disk_partitions", lambda all: OWN)
    with gr.Blocks():
        notice = StoreNotice(Settings(home=home))
    shown = notice.show_standing()
    assert "lost when this Space restarts" in shown[notice.html]
    assert notice.show()[notice.html] == ""  # to who has signed out
