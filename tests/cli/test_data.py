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
from tests.support.foreign import photo, rsicd, write_parquet

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


def test_odd_rows_are_listed(run: Run, tmp_path: Path) -> None:
    """What people's tables go wrong by: each row is named, and nothing ends the check."""
    photos = {f"{n}.png": photo((n, 0, 0), "PNG") for n in range(8)}
    lay_out(tmp_path / "data", [], photos)
    (tmp_path / "data" / "captions.csv").write_text(
        "source,split,image,caption_1,caption_2\n"
        "S,train,0.png,a road,a way\n"
        f"S,train,{'a field by the road and ' * 13},a field\n"  # 3: a caption for a name
        "S,train,1.png,a road, with trees, and a field,a way\n"  # 4: commas without quotes
        'S,train,2.png,"a road\nS,train,3.png,a ""beach""",x\n'  # 5 and 6
        f"S,train,4.png,{'sand ' * 250},x\n"  # 7
        "S,train,5.png,a <eos> road and <image>,the <loc0001> way\n"  # 8
        "S,train,6.png,a 5 < 6 > 4 <b> road,x\n"  # 9: nothing wrong
        'S,train,7.png,"a road\nS,val,7.png,x,x\n'  # 10, to the end
    )
    code, output, _ = run("check", tmp_path / "data", "--json")
    assert code == 1
    found = json.loads(output)
    assert [(p["line"], p["kind"]) for p in found["problems"]] == [
        (3, "image name"),
        (4, "odd row"),
        (5, "line break in a caption"),
        (7, "very long row"),
        (8, "special token"),
        (10, "odd row"),
        (10, "line break in a caption"),
    ]
    by_line = {p["line"]: p["message"] for p in found["problems"][:-1]}
    assert "longer than the name of a file" in by_line[3]
    assert "7 cells, but 5 columns" in by_line[4]
    assert "<eos>, <image>, <loc0001>" in by_line[8]
    assert "never closed" in by_line[10]
    assert all(len(p["message"]) < 250 for p in found["problems"])


def test_photos_in_folders_of_scenes_are_good(run: Run, tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "data", [["R", "val", "airport/b.jpg", "an airport"]], {})
    (folder / "images" / "airport").mkdir()
    (folder / "images" / "airport" / "b.jpg").write_bytes(photo("red"))
    assert run("check", folder)[:2] == (0, "The one row is good.\n")


def test_fetch_names_captions_with_special_tokens(run: Run, tmp_path: Path) -> None:
    columns = {
        "image": [{"bytes": photo(c), "path": f"{c}.jpg"} for c in COLOURS],
        "caption": ["a field", "a <bos> field", "a sea<eos>", "a road"],
    }
    source = write_parquet(tmp_path / "some.parquet", columns)
    code, output, _ = run("fetch", source, "--out", tmp_path / "out")
    assert code == 1
    lines = output.splitlines()
    table = tmp_path / "out" / "captions.csv"
    assert lines[0].startswith(f"{table}:3: lime.jpg: special token: a caption holds <bos>")
    assert lines[1].startswith(f"{table}:4: blue.jpg: special token: a caption holds <eos>")
    assert lines[2].startswith("4 rows of some.parquet are in")
    code, output, _ = run("fetch", source, "--out", tmp_path / "again", "--json")
    assert code == 1 and [p["line"] for p in json.loads(output)["problems"]] == [3, 4]


@pytest.mark.parametrize("action", ["check", "stats"])
def test_coco_captions_are_checked_and_counted(run: Run, tmp_path: Path, action: str) -> None:
    (tmp_path / "red.jpg").write_bytes(photo("red"))
    file = tmp_path / "captions_val.json"
    content = {
        "images": [{"id": 1, "file_name": "red.jpg"}, {"id": 2, "file_name": "gone.jpg"}],
        "annotations": [{"image_id": 1 + n % 2, "caption": f"caption {n}"} for n in range(14)],
    }
    file.write_text(json.dumps(content))
    code, output, errors = run(action, file, "--json")
    assert errors == f"{file} is read as COCO captions: 2 photos with 14 captions, in val.\n"
    found = json.loads(output)
    if action == "check":
        (problem,) = found["problems"]
        assert (code, problem["line"], problem["kind"]) == (1, 2, "missing image")
        assert problem["table"] == str(file)
    else:
        assert (code, found["captions"], found["distinct"]["7"]) == (0, 14, 2)


def test_a_folder_of_photos_cannot_be_evaluated_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Run
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "red.jpg").write_bytes(photo("red"))
    assert cli.main(["evaluate", "--data", str(tmp_path / "mine")]) == UNUSABLE
    errors = capsys.readouterr().err
    assert "No photo of mine has a caption by people" in errors
    assert "Loading" not in errors
    assert run("stats", tmp_path / "mine")[0] == 0


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
