"""Parquet files and data sets of a small hub on this machine, read as the RISC layout."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow.parquet
import pytest

from qvla.data.columns import Columns
from qvla.data.examples import read_examples
from qvla.data.hub_data import fetch
from qvla.data.risc import DatasetError
from tests.support.foreign import photo, rsicd, table, write_parquet
from tests.support.servers import http_server

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where data is written that is read in passing."""
    monkeypatch.setenv("QVLA_HOME", str(tmp_path / "qvla"))
    return tmp_path / "qvla" / "data"


def test_a_preset_fits_its_data_set(tmp_path: Path) -> None:
    about = fetch(rsicd(tmp_path / "copy"), tmp_path / "out", preset="arampacha/rsicd")
    assert (about["name"], about["rows"], about["licence"]) == ("copy", 3, None)
    assert "research use" in about["terms"]
    rows = table(tmp_path / "out")
    assert [(row["source"], row["split"], row["image"]) for row in rows] == [
        ("RSICD", "train", "red.jpg"),
        ("RSICD", "train", "lime.jpg"),
        ("RSICD", "val", "blue.jpg"),
    ]
    assert rows[1]["caption_1"] == "a lime field ."
    assert rows[1]["caption_2"] == "lime  all over"  # captions are not tidied
    assert rows[1]["caption_3"] == ""
    # Pictures are the same files, not encoded anew.
    for example in read_examples(tmp_path / "out"):
        assert example.image.read_bytes() == photo(example.image.stem)


def test_the_mirror_of_risc_keeps_its_sources_and_splits(tmp_path: Path) -> None:
    captions = {f"caption_{number}": [f"{number}", None] for number in range(1, 6)}
    columns = {
        "image": [{"bytes": photo(c), "path": f"{c}.jpg"} for c in ("red", "blue")],
        "source": ["UCM", "NWPU"],
        "split": ["test", "val"],
        **captions,
    }
    file = write_parquet(tmp_path / "risc.parquet", columns)
    about = fetch(file, tmp_path / "out", preset="caglarmert/full_riscm")
    assert "UC Merced" in about["terms"] and "NWPU" in about["terms"]
    red, blue = read_examples(tmp_path / "out")
    assert (red.name, red.source, red.split, red.references) == (
        "red.jpg",
        "UCM",
        "test",
        (*"12345",),
    )
    assert (blue.name, blue.source, blue.split, blue.references) == ("blue.jpg", "NWPU", "val", ())


def test_columns_are_mapped_by_options(tmp_path: Path) -> None:
    columns = {
        "photo": [photo("red"), photo("blue")],
        "scene": [1, 0],
        "part": ["validation", "train"],
        "id": ["one", "two"],
        "first": ["a", "b"],
        "captions": [["c", ""], None],
    }
    import datasets

    features = datasets.Features(
        {name: datasets.Value("string") for name in columns}
        | {
            "photo": datasets.Value("binary"),
            "scene": datasets.ClassLabel(names=["farm", "coast"]),
            "captions": datasets.List(datasets.Value("string")),
        }
    )
    file = tmp_path / "some.parquet"
    datasets.Dataset.from_dict(columns, features=features).to_parquet(file)
    wanted = Columns(
        image="photo", captions=("captions", "first"), source="scene", split="part", name="id"
    )
    fetch(file, tmp_path / "out", wanted)
    read = [
        (item.source, item.split, item.name, item.references)
        for item in read_examples(tmp_path / "out")
    ]
    assert read == [
        ("coast", "val", "one.jpg", ("c", "a")),
        ("farm", "train", "two.jpg", ("b",)),
    ]


def test_one_file_tells_its_split_by_its_name(tmp_path: Path) -> None:
    columns = {"image": [{"bytes": photo("red", "PNG"), "path": None}], "caption": ["a\nb"]}
    for name, split in {
        "rows.parquet": "train",
        "test-00000-of-00001.parquet": "test",
        "my_validation.parquet": "val",
    }.items():
        (example,) = read_examples(write_parquet(tmp_path / name, columns))
        assert (example.split, example.source) == (split, name.removesuffix(".parquet"))
        assert example.references == ("a b",)
        assert example.image.suffix == ".png"


def test_no_file_of_a_folder_is_passed_over(tmp_path: Path) -> None:
    for number, name in enumerate(
        ["train-00000-of-00001.parquet", "more[1].parquet", "valid/0000.parquet", "a/test.parquet"]
    ):
        image = [{"bytes": photo("red"), "path": f"{number}.jpg"}]
        write_parquet(tmp_path / "data" / name, {"image": image, "caption": ["x"]})
    found = {item.name: item.split for item in read_examples(tmp_path / "data")}
    assert found == {"0.jpg": "train", "1.jpg": "train", "2.jpg": "val", "3.jpg": "test"}


def test_names_stay_in_the_folder_and_are_given_once(tmp_path: Path) -> None:
    names = ["../../a.jpg", "/etc/a.jpg", "x\\A.JPG", "..", ".hidden.png", "", None, "a.jpg", "b c"]
    columns = {
        "image": [{"bytes": photo((n, 0, 0)), "path": None} for n in range(len(names))],
        "caption": ["x"] * len(names),
        "file": names,
    }
    out = tmp_path / "deep" / "out"
    fetch(write_parquet(tmp_path / "t.parquet", columns), out, Columns(name="file"))
    examples = read_examples(out)
    assert [item.name for item in examples] == [
        *("a.jpg", "a-2.jpg", "A-3.JPG", "train-000003.jpg", "hidden.png"),
        *("train-000005.jpg", "train-000006.jpg", "a-4.jpg", "b c.jpg"),
    ]
    assert [item.image.read_bytes() for item in examples] == [
        photo((n, 0, 0)) for n in range(len(names))
    ]
    assert {path.name for path in tmp_path.rglob("*")} == {
        *("deep", "out", "images", "captions.csv", "about.json", "t.parquet"),
        *(item.name for item in examples),
    }


def test_a_row_cannot_have_any_file_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(photo("red"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "beside.jpg").write_bytes(photo("blue"))
    paths = [str(tmp_path / "secret.jpg"), "../secret.jpg", "beside.jpg"]
    columns = {"image": paths, "caption": [*"abc"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "data" / "t.parquet")
    fetch(tmp_path / "data" / "t.parquet", tmp_path / "out")
    files = {path.read_bytes() for path in (tmp_path / "out" / "images").iterdir()}
    assert files == {photo("blue")}
    assert len(table(tmp_path / "out")) == 3  # rows without a picture stay, to be found by a check


def test_more_captions_than_columns_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {"image": [{"bytes": photo("red"), "path": None}], "captions": [[*"abcdefg"]]}
    (example,) = read_examples(write_parquet(tmp_path / "t.parquet", columns))
    assert example.references == (*"abcde",)
    assert "(photos: 1)" in caplog.text


def test_what_is_read_is_written_once(tmp_path: Path, kept: Path) -> None:
    source = rsicd(tmp_path / "copy")
    first = read_examples(source, splits=["train"])
    assert len(first) == 2
    (folder,) = kept.iterdir()
    marked = folder / "captions.csv"
    before = marked.stat().st_mtime_ns
    assert read_examples(str(source), splits=["train"]) == first
    assert marked.stat().st_mtime_ns == before and [*kept.iterdir()] == [folder]
    write_parquet(
        source / "data" / "test.parquet",
        {
            "filename": ["new.jpg"],
            "captions": [["new"]],
            "image": [{"bytes": photo("white"), "path": None}],
        },
    )
    assert len(read_examples(source)) == 4
    assert len([*kept.iterdir()]) == 2
    # A change that leaves names and sizes as they are.
    (file,) = source.rglob("valid*.parquet")
    content = file.read_bytes()
    assert b"blue  all over" in content
    file.write_bytes(content.replace(b"blue  all over", b"blue, all over"))
    assert "blue, all over" in {text for item in read_examples(source) for text in item.references}


def test_nothing_is_overwritten_and_nothing_half_written_stays(tmp_path: Path) -> None:
    source = rsicd(tmp_path / "copy")
    (tmp_path / "out").mkdir()
    with pytest.raises(DatasetError, match="there already"):
        fetch(source, tmp_path / "out")
    with pytest.raises(DatasetError, match="None of the 3 rows has a picture"):
        fetch(source, tmp_path / "other", Columns(image="filename"))
    assert {path.name for path in tmp_path.iterdir()} == {"copy", "out"}


@pytest.mark.parametrize(
    ("columns", "preset", "said"),
    [
        (Columns(captions=("texts",)), None, "no column texts .*filename, captions, image"),
        (Columns(image="captions"), None, "captions .* holds no pictures"),
        (Columns(captions=("image",)), None, "image .* holds no captions"),
        (Columns(split="part"), None, "no column part"),
        (None, "caglarmert/full_riscm", "no column caption_1"),
        (None, "owner/unknown", "no preset owner/unknown"),
    ],
)
def test_columns_that_do_not_fit(
    tmp_path: Path, columns: Columns | None, preset: str | None, said: str
) -> None:
    with pytest.raises(DatasetError, match=said) as caught:
        fetch(rsicd(tmp_path / "copy"), tmp_path / "out", columns, preset=preset)
    assert "\n" not in str(caught.value)


def test_parquet_without_the_needed_columns(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "t.parquet", {"text": ["a"]})
    with pytest.raises(DatasetError, match=r"no column image \(it has text\).*--image-column"):
        read_examples(file)
    image = [{"bytes": photo("red"), "path": None}]
    file = write_parquet(tmp_path / "u.parquet", {"image": image, "text": ["a"]})
    with pytest.raises(DatasetError, match="--captions-column"):
        read_examples(file)


def test_what_is_no_parquet(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1, but not really")
    with pytest.raises(DatasetError, match="cannot be read as a table"):
        read_examples(damaged)
    empty = write_parquet(tmp_path / "empty.parquet", {"image": [], "caption": []})
    with pytest.raises(DatasetError, match=r"empty\.parquet has no rows"):
        read_examples(empty)
    with pytest.raises(DatasetError, match="is local"):
        fetch(damaged, tmp_path / "out", revision="main")
    (tmp_path / "captions.csv").write_text("source,split,image\n")
    with pytest.raises(DatasetError, match="RISC layout already"):
        fetch(tmp_path, tmp_path / "out")


def test_offline_and_not_cached() -> None:
    with pytest.raises(DatasetError, match="switched off by HF_HUB_OFFLINE"):
        read_examples("owner/never-fetched")


class Hub(BaseHTTPRequestHandler):
    """Serves `owner/parquet` and `owner/photos` from the folders of that name in `root`."""

    root: Path

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        name = next((name for name in ("parquet", "photos") if f"/owner/{name}/" in path), "")
        folder = self.root / name
        if name and path.startswith(f"/api/datasets/owner/{name}/revision/"):
            if path.rpartition("/")[2] in ("main", COMMIT):
                self._json({"id": f"owner/{name}", "sha": COMMIT, "siblings": []})
            else:
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif name and path.startswith(f"/api/datasets/owner/{name}/tree/"):
            files = [file for file in folder.rglob("*") if file.is_file()]
            self._json([self._entry(file, folder) for file in files])
        elif name and path.startswith(mark := f"/datasets/owner/{name}/resolve/{COMMIT}/"):
            content = (folder / path.removeprefix(mark)).read_bytes()
            tag = hashlib.sha1(content).hexdigest()
            self._send(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})
        elif "/owner/gated" in path:
            self._send(401, b"{}", {"X-Error-Code": "GatedRepo"})
        else:
            self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    @staticmethod
    def _entry(file: Path, folder: Path) -> dict[str, object]:
        oid = hashlib.sha1(file.read_bytes()).hexdigest()
        path = file.relative_to(folder).as_posix()
        return {"type": "file", "path": path, "size": file.stat().st_size, "oid": oid}

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    root = tmp_path / "served"
    rsicd(root / "parquet")
    (root / "parquet" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\nPhotos.\n")
    (root / "parquet" / "loader.py").write_text("raise SystemExit('code of the hub was run')")
    (root / "photos" / "train").mkdir(parents=True)
    (root / "photos" / "train" / "red.png").write_bytes(photo("red", "PNG"))
    (root / "photos" / "train" / "metadata.csv").write_text(
        "file_name,caption\nred.png,a field .\n"
    )
    with http_server(type("Served", (Hub,), {"root": root})) as address:
        yield address


def ask(endpoint: str, folder: Path, offline: bool = False) -> dict[str, object]:
    """What reading says of each id, in a process that knows this hub alone."""
    script = f"""
        import json
        from pathlib import Path
        from qvla.data import hub_data
        from qvla.data.examples import read_examples
        from qvla.data.risc import DatasetError

        answers = {{}}
        for name in ("parquet", "photos", "gated", "missing"):
            try:
                answers[name] = [
                    [item.source, item.split, item.name, item.references, item.image.is_file()]
                    for item in read_examples(f"owner/{{name}}")
                ]
            except DatasetError as error:
                answers[name] = str(error)
        try:
            answers["terms"] = hub_data.fetch("owner/parquet", Path({str(folder)!r}) / "out")
        except DatasetError as error:
            answers["terms"] = str(error)
        try:
            hub_data.fetch("owner/parquet", Path({str(folder)!r}) / "other", revision="nowhere")
        except DatasetError as error:
            answers["revision"] = str(error)
        print(json.dumps(answers))
    """
    known = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    known.pop("HF_TOKEN", None)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env={
            **known,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(folder / "home"),
            "HF_HUB_OFFLINE": "1" if offline else "0",
            "HF_HUB_DISABLE_XET": "1",
        },
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_data_sets_of_the_hub(hub: str, tmp_path: Path) -> None:
    answers = ask(hub, tmp_path)
    assert answers["parquet"] == [
        ["parquet", "train", "train-000000.jpg", ["a red field .", "red  all over"], True],
        ["parquet", "train", "train-000001.jpg", ["a lime field .", "lime  all over"], True],
        ["parquet", "val", "val-000000.jpg", ["a blue field .", "blue  all over"], True],
    ]
    assert answers["photos"] == [["photos", "train", "red.png", ["a field ."], True]]
    terms = answers["terms"]
    assert (terms["name"], terms["revision"]) == ("owner/parquet", COMMIT)
    assert (terms["licence"], terms["rows"]) == ("cc-by-nc-4.0", 3)
    assert "is gated" in answers["gated"] and f"{hub}/datasets/owner/gated" in answers["gated"]
    assert "neither a path here nor a data set" in answers["missing"]
    assert "no revision nowhere" in answers["revision"]
    assert not [*(tmp_path / "home").rglob("loader.py")]  # code is not fetched

    # Out of reach: what was fetched stays usable, the rest is told.
    later = ask("http://127.0.0.1:9", tmp_path, offline=True)
    assert (later["parquet"], later["photos"]) == (answers["parquet"], answers["photos"])
    assert "switched off by HF_HUB_OFFLINE" in later["missing"]
    assert "there already" in later["terms"]
