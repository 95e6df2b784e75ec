"""`qvla data`: what it says of good data and of bad, in words and in JSON."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qvla.cli import main as cli
from qvla.errors import UNUSABLE
from tests.support.foreign import photo, rsicd

DATA = os.environ.get("QVLA_DATA")
HEADER = ["source", "split", "image", *(f"caption_{number}" for number in range(1, 6))]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Run]:
    """Runs a command line in this process: exit code, standard output, standard error."""
    monkeypatch.delenv("QVLA_PROGRESS", raising=False)
    monkeypatch.setenv("QVLA_HOME", str(tmp_path / "home"))

    def command(*arguments: object) -> tuple[int, str, str]:
        code = cli.main(["data", *map(str, arguments)])
        return code, *capsys.readouterr()

    yield command
    own = logging.getLogger("qvla")
    own.handlers[:] = []
    own.propagate = True
    own.setLevel(logging.NOTSET)


def lay_out(folder: Path, rows: list[list[str]], photos: dict[str, bytes]) -> Path:
    (folder / "images").mkdir(parents=True)
    for name, content in photos.items():
        (folder / "images" / name).write_bytes(content)
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return folder


def good(folder: Path) -> Path:
    rows = [
        ["Farm", "train", "a.png", "A field, wide.", "a FIELD", "a field-path's end .", ". ,", "x"],
        ["Farm", "train", "b.png", "same .", "same .", "same .", "same .", "same ."],
        ["Coast", "val", "c.png", "sea", "sea"],
        ["Coast", "val", "d.png", "one two three four five six"],
    ]
    return lay_out(
        folder, rows, {f"{n}.png": photo(c, "PNG") for n, c in zip("abcd", COLOURS, strict=True)}
    )


COLOURS = ("red", "lime", "blue", "white")


def test_good_data_pass(run: Run, tmp_path: Path) -> None:
    code, output, _ = run("check", good(tmp_path / "data"))
    assert (code, output) == (0, "All 4 rows are good.\n")
    code, output, _ = run("check", tmp_path / "data", "--json")
    assert (code, json.loads(output)["problems"]) == (0, [])


def test_every_bad_row_is_listed_with_its_line(run: Run, tmp_path: Path) -> None:
    damaged = photo("red")[:300]
    rows = [
        ["S", "train", "red.jpg", "fine"],  # line 2
        ["S", "train", "gone.jpg", "x"],  # 3
        ["S", "train", "damaged.jpg", "two\nlines"],  # 4 and 5
        ["S", "train", "text.jpg", "x"],  # 6
        ["S", "val", "blue.jpg", "", "  ", "", "", ""],  # 7
        ["S", "train", "red.jpg", "again"],  # 8
        ["S", "val", "../out.jpg", "x"],  # 9
        ["S", "val", "", "x"],  # 10
        ["S", "val", "red as png.png", "x"],  # 11: the pixels of line 2, in another split
        ["S", "train", "blue too.png", "x"],  # 12: those of line 7
        ["S", "train", "blue three.png", "x"],  # 13
        ["S", "train", "white.png", "x"],  # 14 and 15: the same, but in one split
        ["S", "train", "white too.png", "x"],
    ]
    red, blue, white = ((c, 0, 255 - c) for c in (200, 100, 50))
    photos = {
        "red.jpg": photo(red, "PNG"),  # what a file is called is not what it is
        "damaged.jpg": damaged,
        "text.jpg": b"not a picture",
        "blue.jpg": photo(blue, "PNG"),
        "red as png.png": photo(red, "TIFF"),
        "blue too.png": photo(blue, "PNG"),
        "blue three.png": photo(blue, "PNG"),
        "white.png": photo(white, "PNG"),
        "white too.png": photo(white, "PNG"),
    }
    folder = lay_out(tmp_path / "data", rows, photos)
    (tmp_path / "data" / "out.jpg").write_bytes(photo("red"))
    code, output, _ = run("check", folder, "--json")
    assert code == 1
    found = json.loads(output)
    assert found["rows"] == len(rows)
    assert [(p["line"], p["kind"]) for p in found["problems"]] == [
        (3, "missing image"),
        (4, "line break in a caption"),
        (4, "unreadable image"),
        (6, "unreadable image"),
        (7, "no caption"),
        (8, "duplicate image name"),
        (9, "image name"),
        (10, "image name"),
        (11, "same picture in two splits"),
        (12, "same picture in two splits"),
        (13, "same picture in two splits"),
    ]
    assert found["counts"] == Counter(p["kind"] for p in found["problems"])
    by_line = {p["line"]: p["message"] for p in found["problems"]}
    assert "line 2" in by_line[8]
    assert "red.jpg of line 2" in by_line[11]
    assert "blue.jpg of line 7" in by_line[12]

    code, output, _ = run("check", folder)
    lines = output.splitlines()
    assert code == 1 and len(lines) == 12
    assert lines[0].startswith(f"{folder / 'captions.csv'}:3: gone.jpg: missing image")
    assert lines[-1].startswith("10 of 13 rows are bad (")


def test_stats_are_counted_right(run: Run, tmp_path: Path) -> None:
    code, output, _ = run("stats", good(tmp_path / "data"), "--json")
    assert code == 0
    total = json.loads(output)
    farm, coast = total.pop("groups")
    assert (farm["source"], farm["split"], farm["photos"], farm["captions"]) == (
        *("Farm", "train"),
        *(2, 10),
    )
    # Words of a caption: 3, 2, 3, 0, 1 and five times 1; then 1, 1 and 6.
    assert (farm["words_least"], farm["words_median"], farm["words_most"]) == (0, 1, 3)
    assert farm["words_mean"] == pytest.approx(14 / 10)
    assert farm["vocabulary"] == len("a field wide field-path's end x same".split())
    assert farm["distinct"] == {"0": 0, "1": 1, "2": 0, "3": 0, "4": 0, "5": 1}
    assert (farm["identical"], farm["incomplete"]) == (1, 0)
    assert coast["distinct"] == {"0": 0, "1": 2, "2": 0, "3": 0, "4": 0, "5": 0}
    assert (coast["identical"], coast["incomplete"]) == (1, 2)
    assert (total["photos"], total["captions"], total["vocabulary"]) == (4, 13, 14)
    assert total["words_mean"] == pytest.approx(22 / 13)

    code, output, _ = run("stats", tmp_path / "data")
    first = [line.split() for line in output.splitlines()]
    assert ["Farm", "train", "2", "10", "7", "0", "1.40", "1", "3"] in first
    assert ["all", "4", "13", "14", "0", "1.69", "1", "6"] in first


def test_stats_of_rows_that_cannot_be_read_elsewhere(run: Run, tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "data", [["S", "val", "../a.jpg"], ["S", "val", "a.jpg"]], {})
    code, output, _ = run("stats", folder, "--json")
    assert code == 0
    assert json.loads(output)["distinct"]["0"] == 2
    assert json.loads(output)["words_mean"] is None


def test_fetch_states_the_terms(run: Run, tmp_path: Path) -> None:
    copy = rsicd(tmp_path / "copy")
    out = tmp_path / "out"
    code, output, _ = run("fetch", copy, "--out", out, "--preset", "arampacha/rsicd")
    assert code == 0
    assert output == (
        f"3 rows of copy are in {out}. The imagery and captions of RSICD are for research use.\n"
    )
    code, output, _ = run("check", out)
    assert (code, output) == (0, "All 3 rows are good.\n")

    (copy / "README.md").write_text("---\nlicense: mit\n---\n")
    options = ("--source-name", "Field", "--name-column", "filename", "--json")
    code, output, _ = run("fetch", copy, "--out", tmp_path / "licensed", *options)
    values = json.loads(output)
    assert (code, values["licence"], values["terms"]) == (0, "mit", None)
    assert values["columns"]["source_name"] == "Field"
    assert (tmp_path / "licensed" / "images" / "lime.jpg").is_file()


def test_parquet_is_checked_and_counted_as_it_is(run: Run, tmp_path: Path) -> None:
    copy = rsicd(tmp_path / "copy")
    assert run("check", copy)[:2] == (0, "All 3 rows are good.\n")
    code, output, _ = run("stats", copy, "--json")
    assert (code, json.loads(output)["photos"]) == (0, 3)


@pytest.mark.parametrize("action", ["check", "stats"])
def test_faults_are_one_sentence(run: Run, tmp_path: Path, action: str) -> None:
    empty = lay_out(tmp_path / "empty", [], {})
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking" / "captions.csv").write_text("image,split\n")
    (tmp_path / "latin").mkdir()
    (tmp_path / "latin" / "captions.csv").write_bytes("source,split,image\né".encode("latin-1"))
    (tmp_path / "nothing").mkdir()
    for source, said in {
        empty: "has no rows",
        tmp_path / "lacking": "lacks the column(s) source",
        tmp_path / "latin": "UTF-8 (see line 2)",
        tmp_path / "nothing": "captions.csv",
        tmp_path / "nowhere": "no data folder",
    }.items():
        code, output, errors = run(action, source)
        assert (code, output) == (UNUSABLE, "")
        assert said in errors and errors.count("\n") == 1


def test_fetch_overwrites_nothing(run: Run, tmp_path: Path) -> None:
    folder = good(tmp_path / "data")
    code, _, errors = run("fetch", rsicd(tmp_path / "copy"), "--out", folder)
    assert code == UNUSABLE and "there already" in errors
    assert len([*(folder / "images").iterdir()]) == 4


@pytest.mark.skipif(not DATA, reason="needs the photos that QVLA_DATA names")
def test_stats_of_real_data_equal_another_count(run: Run) -> None:
    code, output, _ = run("stats", DATA, "--json")
    assert code == 0
    stats = json.loads(output)
    expected: dict[tuple[str, str], Counter[int]] = {}
    with (Path(DATA) / "captions.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            captions = {row[name].strip() for name in HEADER[3:]} - {""}
            expected.setdefault((row["source"], row["split"]), Counter())[len(captions)] += 1
    found = {
        (group["source"], group["split"]): Counter(
            {int(number): photos for number, photos in group["distinct"].items()}
        )
        for group in stats["groups"]
    }
    assert found == expected  # counters are equal whether a zero is written or not
    assert stats["photos"] == sum(counts.total() for counts in expected.values())
