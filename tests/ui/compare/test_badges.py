"""What a pane says of its adapter, from folders and records made by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from qvla.captioning.contenders import default_contenders
from qvla.captioning.loader import LineupLoader
from qvla.records import store as records
from qvla.settings import Settings
from qvla.ui.compare import badges
from qvla.ui.compare.badges import Badges
from qvla.ui.origins import job_records
from qvla.ui.panes import Pane, render_panes

PANE = Pane("adapter", model="made-up", adapter="lora", precision="fp32")
JOB = "20260101T000000-3f2a"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(records=tmp_path / "records", jobs=tmp_path / "jobs")


@pytest.fixture
def badge(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Badges:
    monkeypatch.setattr(badges, "FRESH_SECONDS", 0)
    run(tmp_path / "lora", 400)
    loader = LineupLoader(
        lambda progress: None, default_contenders("made-up", adapter=tmp_path / "lora")
    )
    return Badges(settings, loader)


def run(folder: Path, steps: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"steps": steps}))


def evaluated(folder: Path, cider: float, items: int = 300, adapter: str = "lora") -> None:
    held = {"title": "Own", "base": "made-up", "precision": "bf16", "adapter": adapter}
    record = records.new_record(
        "evaluation",
        model="made-up",
        variants=["base", "own"],
        data=records.Data(name="fields", items=items, fingerprint="sha256:00"),
        numbers={"standard/own/all/CIDEr": cider, "standard/base/all/CIDEr": 0.1},
        protocol={"contenders": {"own": held}},
    )
    records.write(record, folder)


def test_steps_and_score_are_those_of_the_panes_own_adapter(
    settings: Settings, badge: Badges, tmp_path: Path
) -> None:
    assert badge(PANE) == "400 steps"
    evaluated(settings.records, 0.7, adapter="another")
    evaluated(settings.records, 0.8, items=12)  # too few photos
    assert badge(PANE) == "400 steps"
    evaluated(settings.records, 1.204)
    evaluated(settings.records, 0.9, items=100)  # later, of fewer photos
    assert badge(PANE) == "400 steps, CIDEr 1.20"
    assert badge(replace(PANE, precision="nf4")) == "400 steps"
    assert badge(replace(PANE, adapter=None)) == ""
    assert '<span class="badge">400 steps, CIDEr 1.20</span>' in render_panes([PANE], badge=badge)
    for steps in ("many", -1, None):
        run(tmp_path / "lora", steps)
        assert badge(PANE) == "CIDEr 1.20"
    (tmp_path / "lora" / "run.json").write_text("[")
    assert badge(PANE) == "CIDEr 1.20"


def test_a_published_adapter_is_told_of_as_live(
    settings: Settings, badge: Badges, tmp_path: Path
) -> None:
    run(tmp_path / "output", 1)
    one = {"job": JOB, "folder": str(tmp_path / "output"), "model": "made-up"}
    settings.jobs.mkdir()
    (settings.jobs / "published.json").write_text(json.dumps({"adapter": one}))
    evaluated(settings.records, 1.2)  # of what the settings name
    assert badge(PANE) == "live: job 3f2a, 1 step"
    evaluated(job_records(settings, JOB), 0.9)
    assert badge(PANE) == "live: job 3f2a, 1 step, CIDEr 0.90"


def test_a_badge_is_kept_for_a_while(
    settings: Settings, badge: Badges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(badges, "FRESH_SECONDS", 1000)
    assert badge(PANE) == "400 steps"
    evaluated(settings.records, 1.2)
    assert badge(PANE) == "400 steps"
