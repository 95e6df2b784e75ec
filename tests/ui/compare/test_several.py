"""Several photos: what is taken, what a turn does, and what goes away with the visit."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path

import pytest
from gradio.data_classes import FileData

from qvla.captioning.engine import Decoding, caption
from qvla.captioning.loader import LineupLoader
from qvla.data.imagery import open_image
from qvla.settings import Settings
from qvla.ui.compare.several.lot import A_TURN, LOST, Desk, Lot, LotError, Row, new_lot
from qvla.ui.compare.several.table import as_csv, as_json, as_page, render_lot, write_downloads
from qvla.ui.panes import Pane, PaneState
from tests.support.raw import RawVisitor, sent
from tests.support.serving import add_adapters, write_photo
from tests.support.tiny import build_tiny

OPTIONS = {"max_new_tokens": 8, "num_beams": 1, "temperature": 0.0, "top_p": 1.0, "seed": None}
HOSTILE = "<img src=x onerror=alert(1)>"
SAID = (
    Pane("base", PaneState.DONE, text="=a field", called="Base"),
    Pane("adapter", PaneState.UNAVAILABLE, "It has no adapter.", called="Adapter"),
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("app")
    model = add_adapters(build_tiny(home / "model"))
    return Settings(
        model=str(model), home=home / "home", max_upload_mb=1, max_photos=7, device="cpu"
    )


def lot(*rows: Row) -> Lot:
    return Lot(list(rows), (), OPTIONS)


@pytest.mark.parametrize("value", [None, "x", [], {}, {"photos": []}, {"photos": "x"}])
def test_without_photos_there_is_a_sentence(value: object) -> None:
    with pytest.raises(LotError, match="Choose photos first"):
        new_lot(value, Settings(), (), OPTIONS)


def test_no_more_are_taken_than_may_be(tmp_path: Path) -> None:
    settings = Settings(max_photos=2, max_upload_mb=1)
    photos = [sent(tmp_path / f"{n}.png") for n in range(3)]
    with pytest.raises(LotError, match="At most 2 photos"):
        new_lot({"photos": photos}, settings, (), OPTIONS)
    large, lost = {"orig_name": "large.tif", "size": 2**21}, {"orig_name": "lost.png", "size": 9}
    taken = new_lot({"photos": [large, lost], "left_out": 5}, settings, (), OPTIONS)
    assert ["1 MB" in taken.rows[0].problem, taken.rows[1].problem] == [True, LOST]
    assert "5 photos beyond the first 2 left out" in render_lot(taken)


def test_turns_caption_all_as_the_engine_does_and_each_fault_is_a_row(
    settings: Settings, loader: LineupLoader, tmp_path: Path
) -> None:
    photos = [write_photo(tmp_path / f"{n}.png", seed=n) for n in range(6)]
    (tmp_path / "bad.png").write_bytes(b"GIF89a")
    order = [*photos[:2], tmp_path / "bad.png", *photos[2:]]
    photos_sent = {"photos": [sent(path) for path in order]}
    taken, lineup = new_lot(photos_sent, settings, (), OPTIONS), loader.lineup
    names = lineup.names()
    taken.step(lineup, names, settings, lambda pane: "")
    assert taken.waiting == len(photos) - A_TURN and taken.failed == 1
    before = list(taken.rows)
    taken.step(lineup, names, settings, lambda pane: "")
    assert taken.waiting == 0 and taken.rows[: A_TURN + 1] == before[: A_TURN + 1]
    assert "GIF" in taken.rows[2].problem and not taken.rows[2].panes
    told = [{p.name: p.text for p in row.panes} for row in taken.rows if row.panes]
    alone = [
        {name: one.text for name, one in said.items()}
        for said in caption(lineup, [open_image(p) for p in photos], None, Decoding(8))
    ]
    assert told == alone and len({tuple(one.items()) for one in told}) > 1


def test_downloads_are_of_the_same_rows_and_no_formula_or_markup(tmp_path: Path) -> None:
    taken = lot(
        Row(f"=1+1 {HOSTILE}.png", FileData(path="x"), notes=("Bands 3, 2, 1.",), panes=SAID),
        Row("bad.png", problem="This is a GIF file."),
        Row("later.png"),
    )
    rows = list(csv.DictReader(StringIO(as_csv(taken))))
    assert list(rows[0]) == ["photo", "Base", "Adapter", "problem", "notes"]
    assert rows[0]["photo"].startswith("'=") and rows[0]["Base"] == "'=a field"
    assert [row["problem"] for row in rows] == ["", "This is a GIF file.", ""]
    one, bad, later = json.loads(as_json(taken))
    assert one["variants"]["base"]["caption"] == "=a field" and one["notes"] == ["Bands 3, 2, 1."]
    assert bad["error"] == "This is a GIF file." and "error" in later
    page = as_page(taken, HOSTILE)
    assert "@media print" in page and "src=x" not in page.replace("&lt;img src=x", "")
    assert "http" not in page and "<script" not in page
    assert HOSTILE not in render_lot(taken)


def test_what_a_visitor_had_goes_with_the_visit(tmp_path: Path) -> None:
    taken = lot(Row("a.png", panes=SAID))
    folder, paths = write_downloads(taken, "mini", tmp_path)
    other, _ = write_downloads(taken, "mini", tmp_path)
    assert folder != other and len(folder.name) >= 32
    endings = [Path(path).name.removeprefix("qvla-photos.") for path in paths]
    assert endings == ["csv", "json", "html"]
    desk = Desk(taken, folder)
    desk.clear()
    assert not folder.exists() and other.exists() and desk == Desk()


def test_over_http_a_visitor_has_no_photos_but_their_own(address: str, tmp_path: Path) -> None:
    options = [8, 1, 0, 1, ""]
    owner, stranger = RawVisitor(address, "owner"), RawVisitor(address, "stranger")
    theirs = write_photo(tmp_path / "secret.png")  # on the server, and nobody's upload
    for one in (sent(theirs), {**sent(theirs), "path": "http://127.0.0.1:9/photo.png"}):
        answer = stranger.call("take_photos", {"photos": [one]}, *options)
        assert "event: error" in answer
    unmarked = {"path": str(theirs), "orig_name": "secret.png"}
    assert LOST in stranger.call("take_photos", {"photos": [unmarked]}, *options)
    mine = {"photos": [owner.upload(write_photo(tmp_path / "one.png"))], "left_out": 0}
    assert "0 of 1 photo done" in owner.call("take_photos", mine, *options)
    assert "1 of 1 photo done" in owner.call("caption_photos")
    assert "one.png" in owner.call("open_photo", "0")
    assert "no such photo" in stranger.call("open_photo", "0")
    for place in ("1", "-1", "x", None, "9" * 4000):
        assert "no such photo" in owner.call("open_photo", place)
