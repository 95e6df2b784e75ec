from __future__ import annotations

import re
from pathlib import Path

import gradio as gr
import pytest

from qvla.records import store as records
from qvla.settings import Settings
from qvla.ui.ask.measured import MeasuredAnswers, render_measured
from qvla.ui.measured.evaluations import find_evaluations
from qvla.ui.origins import visit_records


def kept(folder: Path, right: float, model: str = "made-up") -> None:
    def scored(name: str, group: str, value: float) -> dict[str, float]:
        key = f"answers/{name}/{group}/exact_match"
        return {key: value, f"{key}/low": value - 0.1, f"{key}/high": value + 0.1}

    numbers = {"answers/all/questions": 80.0, "answers/type count/questions": 30.0}
    for group, value in (("all", right), ("type count", right / 2)):
        numbers |= scored("own", group, value) | scored("majority", group, 0.25)
    record = records.new_record(
        "answers",
        model=model,
        variants=["own"],
        data=records.Data(name="fields", items=80, fingerprint="sha256:00"),
        numbers=numbers,
        protocol={"types": ["count"], "contenders": {"own": {"title": "One <b>of</b> ours"}}},
    )
    records.write(record, folder)


def rows(page: str) -> list[list[str]]:
    body = page.split("<tbody>")[1].split("</tbody>")[0]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in body.split("</tr>")[:-1]]
    return [[re.sub(r"<small>.*?</small>|<[^>]+>", "", cell) for cell in row] for row in cells]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(model="made-up", records=tmp_path / "records", jobs=tmp_path / "jobs")


def test_the_running_models_newest_evaluation_is_shown_by_type(settings: Settings) -> None:
    with gr.Blocks():
        section = MeasuredAnswers(settings, [])
    assert "evaluate --task vqa" in section.fill(None, "")[section.table]
    kept(visit_records(settings), 0.9)  # a visitor's own is not what everybody sees first
    kept(settings.records, 0.6)
    kept(settings.records, 0.7, model="another")
    first, *rest = find_evaluations(settings, pytest.fail, "answers")
    assert len(rest) == 2
    page = section.fill(None, "")[section.table]
    assert page == section.fill("none such", "")[section.table] == render_measured(first.kept)
    assert "to another, on" in section.fill(rest[0].stem, "")[section.table]
    assert rows(page) == [
        ["count", "30", "25.0 (15.0 to 35.0)", "30.0 (20.0 to 40.0)"],
        ["all questions", "80", "25.0 (15.0 to 35.0)", "60.0 (50.0 to 70.0)"],
    ]
    assert "80 questions of fields to made-up" in page
    assert "One &lt;b&gt;of&lt;/b&gt; ours" in page
    assert page.count('href="#record-') == 4 and 'id="record-' in page
