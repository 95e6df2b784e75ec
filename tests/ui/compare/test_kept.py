"""What the browser keeps of a visit, and what is believed of it when it comes back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from gradio.data_classes import FileData
from gradio.utils import get_upload_folder

from qvla.ui.compare import history
from qvla.ui.compare.history import Comparison, render_history, with_references
from qvla.ui.compare.kept import MOST_BYTES, KeptPhoto, kept, read_kept
from qvla.ui.compare.visits import Runs, Wanted
from qvla.ui.panes import Pane, PaneState
from tests.support.serving import write_photo

PANES = (
    Pane("base", PaneState.DONE, text="a river", words=(("a", False), (" river", True)), tokens=2),
    Pane("lora-16", PaneState.FAILED, message="No memory.", called="LoRA, rank 16"),
)
WEBP = "data:image/webp;base64,UklG"
ENTRY = Comparison("2026-01-01T10:00:00+00:00", "r.tif", WEBP, {"seed": 7}, ("one",), PANES)


@pytest.fixture
def upload() -> FileData:
    path = Path(get_upload_folder()) / "kept" / "river.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileData(path=str(write_photo(path)), orig_name="my river.png")


def test_a_visit_comes_back_as_it_was(upload: FileData) -> None:
    value = json.loads(json.dumps(kept(upload, "one", "two", PANES, (ENTRY,))))
    visit = read_kept(value)
    assert (visit.references, visit.filled) == ("one", "two")
    assert visit.panes == PANES and visit.visited == (ENTRY,)
    assert visit.photo.file().path == str(Path(upload.path).resolve())
    assert visit.photo.file().orig_name == "my river.png"
    busy = (replace(PANES[0], state=PaneState.STREAMING), PANES[1])
    assert read_kept(kept(None, "", "", busy, ())).panes == ()
    assert read_kept(kept(None, "", "", (), (), ["base", "ships"])).chosen_panes == (
        "base",
        "ships",
    )
    del value["chosen_panes"]  # as it was kept before there was a choice
    assert read_kept(value).chosen_panes == ()


def test_what_is_kept_is_bounded_and_loses_the_oldest() -> None:
    thumbnail = "data:image/webp;base64," + "A" * 20_000
    visited = [replace(ENTRY, time=f"t{number}", thumbnail=thumbnail) for number in range(40)]
    value = kept(None, "", "", (), visited)
    times = [entry.time for entry in read_kept(value).visited]
    written = json.dumps(value, separators=(",", ":"))  # as browsers write it, without spaces
    assert len(written) <= MOST_BYTES
    assert 10 < len(times) < 40 and times == [f"t{number}" for number in range(40)][-len(times) :]


@pytest.mark.parametrize("place", ["/etc/hostname", "../../etc/hostname", "missing.png", "\0", ""])
def test_no_file_is_opened_but_an_upload(place: str) -> None:
    assert KeptPhoto(place, "photo.png").file() is None
    assert KeptPhoto(str(Path(get_upload_folder()) / place.lstrip("/")), "x").file() is None


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"visited": [{"thumbnail": 'data:,"><script>'}]},
        {"panes": [{"name": "base", "state": "no state"}]},
        {"panes": 7},
        {"chosen_panes": ["base", "../../etc"]},
        {"chosen_panes": ["base"] * 7},
        {"references": "r" * 20_001},
        {"photo": {"path": ["/etc/hostname"], "name": "x"}},
    ],
)
def test_what_was_not_written_here_is_as_good_as_nothing(change: dict[str, object]) -> None:
    value = kept(None, "", "", PANES, (ENTRY,))
    assert read_kept(value) is not None
    if "visited" in change:
        change = {"visited": [{**value["visited"][0], **change["visited"][0]}]}
    assert read_kept({**value, **change}) is None
    assert read_kept(None) is None and read_kept([[[]]]) is None and read_kept("x") is None


def test_the_history_has_a_column_for_each_contender_by_name() -> None:
    """Also when the line-up changed between two comparisons."""
    newer = replace(ENTRY, panes=(Pane("qvla", PaneState.DONE, text="a sea"), PANES[0]))
    page = render_history((ENTRY, newer))
    head = page[: page.index("</thead>")]
    assert [part.partition("<")[0] for part in head.split('<th scope="col">')[1:]] == [
        "Photo",
        "QVLA",
        "Base",
        "LoRA, rank 16",
    ]
    first, second = page.split("<tr>")[2:]
    for row, shown in (
        (first, ("A sea", "A river", "–")),
        (second, ("–", "A river", "No memory.")),
    ):
        cells = row.split("<td")[1:]
        assert [text in cell for text, cell in zip(shown, cells, strict=True)] == [True] * 3
    rows = history.as_csv((ENTRY,)).splitlines()
    assert rows[2].split(",")[2] == "lora-16" and '"LoRA, rank 16"' in rows[2]


def test_references_typed_later_belong_to_the_captions_on_the_screen() -> None:
    scored = (replace(PANES[0], cider_d=2.5), PANES[1])
    assert with_references((ENTRY, ENTRY), ("two",), scored) == (
        ENTRY,
        replace(ENTRY, references=("two",), panes=scored),
    )
    other = (replace(PANES[0], text="a sea"), PANES[1])  # of a photo that is no longer shown
    assert with_references((ENTRY,), ("two",), other) == (ENTRY,)
    assert with_references((), ("two",), scored) == ()


def test_a_visit_has_one_comparison_at_a_time(upload: FileData) -> None:
    runs, wanted = Runs(), Wanted(upload, (), {})
    assert runs.ask("a", wanted) and not runs.ask("a", wanted) and runs.ask("b", wanted)
    assert runs.stop("a") and runs.begin("a") is None  # it left the queue
    assert runs.ask("a", wanted)
    run = runs.begin("a")
    assert run.wanted is wanted and runs.is_busy("a") and not runs.ask("a", wanted)
    assert not runs.stop("a", discard=True) and run.stopped.is_set()
    other = Wanted(upload, ("of another photo",), {})
    assert runs.ask("a", other)  # while the discarded one still ends
    runs.end("a", run)
    assert runs.begin("a").wanted is other and runs.begin("b").wanted is wanted
