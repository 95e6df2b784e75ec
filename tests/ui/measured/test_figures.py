"""Figures and tables of the measured tabs: numbers in are numbers out, and say what they are."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from qvla.settings import ASSETS, Settings, child_environment
from qvla.ui import figures, tables
from qvla.ui.contenders import titles_of
from qvla.ui.figures import Series, bars, far_apart, lines
from qvla.ui.measured.exhibits import Entry, entries_bars, entries_csv, entries_table
from qvla.ui.measured.subjects import chosen, find_subjects
from qvla.ui.origins import visit_records
from qvla.ui.tables import Cell, render_records, render_table, write_csv
from tests.support.measured import memory_numbers, write_record

HOSTILE = '<img src=x onerror="alert(1)">'
SERIES = [
    Series("Base", ["first", "second"], [11.5, None], "base", "reported"),
    Series("Base", ["first", "second"], [5.75, 7.25], "base", low=[5.5, 7.0], high=[6.25, None]),
    Series("QVLA", ["first", "second"], [2.5, 2.75], "qvla"),
]


class TableReader(HTMLParser):
    """A table's rows, each cell as (text, link, kind)."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[tuple[str, str, str]]] = []
        self.tags: list[str] = []
        self._text: list[str] = []
        self._link = self._kind = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attributes)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self._text, self._link, self._kind = [], "", given.get("data-kind") or ""
        elif tag == "a":
            self._link = given.get("href") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.rows[-1].append((" ".join(self._text), self._link, self._kind))

    def handle_data(self, data: str) -> None:
        self._text.append(data)


def drawn(figure):
    """What the browser is given: the traces that draw something, and those of the legend."""
    content = json.loads(figure.to_json())
    traces = content["data"]
    data = [trace for trace in traces if trace.get("showlegend") is False]
    legend = [trace for trace in traces if trace.get("showlegend") is not False]
    assert all(value is None for trace in legend for value in trace["y"])
    return data, legend, content["layout"]


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, as WCAG 2 defines it."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


# ---- figures -------------------------------------------------------------------------------------


def test_colours_are_seen_on_light_and_dark_paper() -> None:
    style = (ASSETS / "ui" / "style.css").read_text(encoding="utf-8")
    papers = re.findall(r"--surface: (#\w{6})", style)
    assert len(papers) == 2
    colours = [*figures.VARIANT_COLOURS.values(), *figures.FURTHER_COLOURS, figures.NEUTRAL]
    assert len(set(colours)) == len(colours)
    for paper in papers:
        for colour in colours:
            assert contrast(colour, paper) >= 3, (colour, paper)


@pytest.mark.parametrize("stacked", [False, True])
def test_bars_draw_the_numbers_they_are_given(stacked: bool) -> None:
    data, legend, layout = drawn(bars(SERIES, y_title="Memory, GB", unit="GB", stacked=stacked))
    assert [trace["y"] for trace in data] == [list(one.y) for one in SERIES]
    assert [trace["x"] for trace in data] == [["first", "second"]] * 3
    assert [trace["name"] for trace in data] == [
        "Base, reported",
        "Base, measured",
        "QVLA, measured",
    ]
    assert all(trace["hovertemplate"].endswith(" GB") for trace in data)
    assert data[1]["error_y"]["array"] == [0.5, None]
    assert data[1]["error_y"]["arrayminus"] == [0.25, 0.25]
    assert "error_y" not in data[0] and "error_y" not in data[2]
    assert [trace["name"] for trace in legend] == ["Base", "QVLA", "reported", "measured"]
    assert layout["yaxis"]["title"]["text"] == "Memory, GB"
    # the legend's own bars take no place beside the others
    own, others = ({t["offsetgroup"] for t in traces} for traces in (legend, data))
    assert own <= others and len(others) == (1 if stacked else 3)


def test_what_is_told_and_what_is_measured_look_different_without_colour() -> None:
    kinds = [Series("QVLA", ["a"], [1.0], "qvla", kind) for kind in figures.KINDS]
    data, _, _ = drawn(bars(kinds, y_title=""))
    patterns = [trace["marker"]["pattern"]["shape"] for trace in data]
    assert len(set(patterns)) == len(figures.KINDS) and patterns[-1] == ""
    data, _, _ = drawn(lines(kinds, x_title="", y_title=""))
    dashes = [trace["line"]["dash"] for trace in data]
    assert len(set(dashes)) == len(figures.KINDS) and dashes[-1] == "solid"


def test_lines_draw_the_numbers_they_are_given() -> None:
    curve = Series("QVLA", (0.0, 1.5, 3.0), (2.5, 4.0, 3.5), "qvla")
    level = Series("QVLA", (0.0, 3.0), (15.5, 15.5), "qvla", "reported")
    data, legend, layout = drawn(lines([curve, level], x_title="Seconds", y_title="GB", unit="GB"))
    assert [(trace["x"], trace["y"]) for trace in data] == [
        ([0.0, 1.5, 3.0], [2.5, 4.0, 3.5]),
        ([0.0, 3.0], [15.5, 15.5]),
    ]
    assert data[0]["line"]["color"] == data[1]["line"]["color"]
    assert [trace["mode"] for trace in data] == ["lines+markers", "lines"]
    assert [trace["name"] for trace in legend] == ["QVLA", "reported", "measured"]
    assert layout["xaxis"]["type"] == "linear" and layout["hovermode"] == "x unified"
    words = lines([Series("QVLA", ["1", "32"], [1, 2], "qvla")], x_title="", y_title="")
    assert drawn(words)[2]["xaxis"]["type"] == "category"


def test_a_logarithmic_axis_holds_every_value() -> None:
    wide = [Series("Base", ["a", "b"], [0.0421, 39.0], "base")]
    assert far_apart(wide) and not far_apart(SERIES) and not far_apart([])
    layout = drawn(bars(wide, y_title="", logarithmic=True))[2]
    low, high = (10**end for end in layout["yaxis"]["range"])
    assert layout["yaxis"]["type"] == "log" and low < 0.0421 and high > 39.0
    values = {"Loaded": 1e7, "Peak": 9e9}
    entries = [Entry(name, "base", "measured", value, "B") for name, value in values.items()]
    for may_be, title in ((True, "Bytes, logarithmic"), (False, "Bytes")):
        figure = entries_bars(
            entries, titles_of(), y_title="Bytes", unit="B", may_be_logarithmic=may_be
        )
        axis = drawn(figure)[2]["yaxis"]
        assert (axis.get("type") == "log", axis["title"]["text"]) == (may_be, title)


def test_figures_fit_a_telephone_and_cannot_be_dragged() -> None:
    for figure in (bars(SERIES, y_title="y"), lines(SERIES, x_title="x", y_title="y")):
        layout = json.loads(figure.to_json())["layout"]
        assert layout["font"]["size"] >= 12
        assert "width" not in layout and layout["legend"]["orientation"] == "h"
        assert layout["dragmode"] is False
        assert layout["xaxis"]["fixedrange"] and layout["yaxis"]["fixedrange"]
        assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"


# ---- tables --------------------------------------------------------------------------------------


def test_a_table_says_what_each_figure_is_and_links_to_its_record() -> None:
    cells = [Cell("11.5 GB", "reported"), Cell("5.85 GB", "measured", "stem-1"), Cell("–")]
    page = render_table(("Memory", "Base", "Adapter", "QVLA"), [("Loaded", cells)], caption="Bytes")
    head, row = TableReader(page).rows
    assert [text for text, *_ in head] == ["Memory", "Base", "Adapter", "QVLA"]
    assert row == [
        ("Loaded", "", ""),
        ("11.5 GB reported", "", "reported"),
        ("5.85 GB measured", "#record-stem-1", "measured"),
        ("–", "", ""),
    ]
    with pytest.raises(ValueError, match="Loaded has 3 cells for 2"):
        render_table(("Memory", "Base"), [("Loaded", cells)], caption="Bytes")


def test_records_are_shown_whole_and_never_as_markup(tmp_path: Path) -> None:
    first = write_record(tmp_path, "bench/memory", memory_numbers(), model=HOSTILE)
    second = write_record(tmp_path, "bench/latency", {"base/tokens": 9.0}, hour=5)
    page = render_records([first, second])
    assert "img" not in TableReader(page).tags
    assert page.index(second.path.stem) < page.index(first.path.stem)  # the newest first
    for kept in (first, second):
        inside = page.partition(f'id="record-{kept.path.stem}"')[2].partition("</details>")[0]
        shown = unescape(re.search(r"<code>(.*)</code>", inside, re.S)[1])
        assert json.loads(shown) == json.loads(kept.path.read_text(encoding="utf-8"))
    hostile = render_table((HOSTILE, "x"), [(HOSTILE, [Cell(HOSTILE, "measured", HOSTILE)])],
                           caption=HOSTILE)  # fmt: skip
    assert "img" not in TableReader(hostile).tags


def test_entries_give_the_same_numbers_to_table_plot_and_csv() -> None:
    entries = [
        Entry("Loaded", "base", "reported", 11.5e9, "bytes"),
        Entry("Loaded", "base", "measured", 5_973_000_001, "bytes", 5.9e9, 6.1e9, "stem-1"),
        Entry("Peak", "qvla", "measured", 2_750_000_000, "bytes", record="stem-2"),
    ]
    page = entries_table(
        entries, lambda one: f"{one.value:.0f}", titles_of(), first="Memory", caption="c"
    )
    _, *rows = TableReader(page).rows
    assert [[text for text, *_ in row] for row in rows] == [
        ["Loaded", "11500000000 reported", "–", "–"],
        ["Loaded", "5973000001 measured", "–", "–"],
        ["Peak", "–", "–", "2750000000 measured"],
    ]
    data, _, _ = drawn(entries_bars(entries, titles_of(), y_title="GB", unit="GB", scale=1e9))
    by_name = {trace["name"]: trace["y"] for trace in data}
    assert by_name == {
        "Base, reported": [11.5, None],
        "Base, measured": [5.973000001, None],
        "QVLA, measured": [None, 2.75],
    }
    path = entries_csv("memory", entries)
    with open(path, newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [float(row["value"]) for row in read] == [one.value for one in entries]
    assert [row["record"] for row in read] == ["", "stem-1", "stem-2"]
    assert (read[1]["lowest"], read[1]["highest"]) == ("5900000000.0", "6100000000.0")


def test_a_csv_holds_awkward_text_and_the_same_table_is_the_same_file() -> None:
    rows = [('a "quoted", cell\nof two lines', 0.1 + 0.2), ("Zürich", None)]
    path = write_csv("qvla/../odd name.csv", ("text", "number"), rows)
    assert Path(path).name == "qvla-odd-name.csv"
    with open(path, newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["text", "number"],
            [rows[0][0], "0.30000000000000004"],
            ["Zürich", ""],
        ]
    assert write_csv("qvla/../odd name.csv", ("text", "number"), rows) == path
    assert write_csv("qvla/../odd name.csv", ("text", "number"), rows[:1]) != path


# ---- whose records -------------------------------------------------------------------------------


def test_the_folders_of_records_can_be_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("QVLA_RECORDS", raising=False)
    monkeypatch.setenv("QVLA_HOME", str(tmp_path / "home"))
    shipped, here = tables.record_folders(Settings())
    assert shipped == ASSETS / "records" and here == tmp_path / "home" / "records"
    monkeypatch.setenv("QVLA_RECORDS", str(tmp_path))
    assert tables.record_folders(Settings()) == (tmp_path,)


def test_subjects_are_models_on_machines_and_the_newest_figure_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QVLA_RECORDS", str(tmp_path))
    assert find_subjects(Settings(), ["bench/memory"]) == ([], [])
    name = "base/loaded_bytes"
    write_record(tmp_path, "bench/memory", {name: 1, "qvla/loaded_bytes": 7}, hour=1)
    newer = write_record(tmp_path, "bench/memory", {name: 2}, hour=3)
    write_record(tmp_path, "bench/memory", {name: 3}, accelerator="Test GPU", hour=2)
    write_record(tmp_path, "bench/core", {name: 4}, hour=9)
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    subjects, problems = find_subjects(Settings(), ["bench/memory"])
    assert [one.name for one in subjects] == ["mini · Test CPU", "mini · Test GPU"]
    assert len(problems) == 1 and "broken.json" in problems[0]
    value = subjects[0].value(("bench/memory", name))
    assert (value.number, value.record) == (2, newer.path.stem)
    assert subjects[0].value(("bench/memory", "qvla/loaded_bytes")).number == 7
    assert subjects[0].value(("bench/memory", "adapter/loaded_bytes")) is None
    assert chosen(subjects, "mini · Test GPU") is subjects[1]
    assert chosen(subjects, "gone") is subjects[0] and chosen([], None) is None


def test_a_tab_opens_on_what_runs_here_and_on_what_has_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folders = (tmp_path / "shipped", tmp_path / "here")
    monkeypatch.setattr("qvla.ui.origins.record_folders", lambda settings: folders)
    settings = Settings(model="mini", records=folders[1], jobs=tmp_path / "jobs")

    def models(model: str) -> list[str]:
        settings.model = model
        whats = ("bench/memory", "bench/report")
        return [one.model for one in find_subjects(settings, whats)[0]]

    number = {"base/loaded_bytes": 1}
    full = "paligemma-3b-pt-224 (random weights)"
    write_record(folders[0], "bench/memory", number, model="mini", hour=9)
    write_record(folders[0], "bench/memory", number, model=full, hour=2)
    write_record(folders[1], "bench/report", number, model="told", hour=1)
    write_record(visit_records(settings), "bench/memory", number, model="visited", hour=20)
    assert models("mini") == ["mini", full, "visited", "told"]
    assert models("elsewhere") == [full, "mini", "visited", "told"]
    assert models("told") == [full, "mini", "visited", "told"]  # it has no figure of the first kind
    assert models("visited")[-2:] == ["visited", "told"]
    [visited] = [one for one in find_subjects(settings, ["bench/memory"])[0] if one.whose]
    assert visited.name == "Measured from this page: visited · Test CPU"


def test_the_page_is_built_without_what_takes_long_to_import() -> None:
    heavy = ("torch", "transformers", "plotly", "bitsandbytes", "peft")
    check = f"import sys, qvla.ui.app; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", check],
        env=child_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
