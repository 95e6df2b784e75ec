"""Zip archives as data: what is right is taken whole, and nothing else gets out or stays."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from qvla.data.archive import ArchiveError, take_in, take_in_files, unpack
from qvla.data.examples import read_examples


def photo(colour: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (colour, 90, 60)).save(file, "PNG")
    return file.getvalue()


TABLE = (
    "source,split,image,caption_1\nA,train,0.png,a road\nA,train,1.png,a river\nA,val,2.png,sea\n"
)
FILES = {"captions.csv": TABLE.encode()} | {
    f"images/{number}.png": photo(40 * number) for number in range(3)
}


def pack(path: Path, files: dict[str, bytes], **options: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content, **options)
    return path


def test_photos_and_tables_are_taken_checked_and_kept_once(tmp_path: Path) -> None:
    others = {"risc/run.sh": b"rm -rf /", "__MACOSX/risc/._0.png": b"x", "risc/.hidden.png": b"x"}
    inside = {f"risc/{name}": content for name, content in FILES.items()}
    archive = pack(tmp_path / "My data (1).zip", inside | others)
    home = tmp_path / "home"
    taken = take_in(archive, archive.name, home)
    assert taken.folder.parent == home and taken.folder.name.startswith("My-data-1-")
    assert {str(file.relative_to(taken.folder)) for file in taken.folder.rglob("*.*")} == set(FILES)
    assert [item.split for item in read_examples(taken.folder)] == ["train", "train", "val"]
    assert taken.sentence == (
        "All 3 rows are good. Files that are no photos or tables were left out: 3."
    )
    assert take_in(archive, archive.name, home).folder == taken.folder  # the same again
    assert [path.name for path in home.iterdir()] == [taken.folder.name]


def test_a_table_is_taken_with_the_photos_chosen_beside_it(tmp_path: Path) -> None:
    home, place = tmp_path / "home", tmp_path / "chosen"
    place.mkdir()
    files = [place / Path(name).name for name in FILES]
    for file, content in zip(files, FILES.values(), strict=True):
        file.write_bytes(content)
    other = place / "run.sh"
    other.write_bytes(b"rm -rf /")
    taken = take_in_files([*files, other], home)
    assert [item.split for item in read_examples(taken.folder)] == ["train", "train", "val"]
    assert taken.report.rows == 3 and taken.left_out == 1 and not taken.report.problems
    assert {file.name for file in taken.folder.iterdir()} == {file.name for file in files}
    for chosen, sentence in (
        (files[:1], "A table alone has no photos"),
        ([], "Choose a zip"),
        ([files[0], files[1], tmp_path / "again" / files[1].name], "have one name"),
        ([other], "no zip archive"),
    ):
        if chosen and not chosen[-1].exists():
            chosen[-1].parent.mkdir()
            chosen[-1].write_bytes(photo())
        with pytest.raises(ArchiveError, match=sentence):
            take_in_files(chosen, home)
    assert [path.name for path in home.iterdir()] == [taken.folder.name]


def test_what_is_wrong_with_single_rows_is_told_and_the_rest_is_taken(tmp_path: Path) -> None:
    damaged = FILES | {"images/1.png": photo()[:60]}
    archive = pack(tmp_path / "data.zip", damaged)
    taken = take_in(archive, archive.name, tmp_path / "home")
    assert taken.sentence == "1 of 3 rows is bad (unreadable image 1)."


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def of_link(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("captions.csv", TABLE)
        packed.writestr(link("images/0.png"), "/etc/passwd")
    return path


def twice(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("captions.csv", TABLE)
        packed.writestr("Captions.CSV", TABLE)
    return path


def broken(path: Path) -> Path:
    content = bytearray(pack(path, {"captions.csv": os.urandom(4000)}).read_bytes())
    content[1000] ^= 255
    path.write_bytes(content)
    return path


def lying(path: Path) -> Path:
    """A table that says it is small and is not."""
    content = bytearray(pack(path, {"a.csv": bytes(2**26)}).read_bytes())
    for signature, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.index(signature) + place, 100)
    path.write_bytes(content)
    return path


def locked(path: Path) -> Path:
    content = bytearray(pack(path, {"a.csv": b"x"}).read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + place] |= 1
    path.write_bytes(content)
    return path


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a name that climbs": (lambda path: pack(path, {"../out.png": b"x"}), "no plain file"),
    "one that climbs later": (lambda path: pack(path, {"a/../../o.png": b"x"}), "no plain file"),
    "with backslashes": (lambda path: pack(path, {"..\\out.png": b"x"}), "no plain file"),
    "an absolute name": (lambda path: pack(path, {"/tmp/out.png": b"x"}), "no plain file"),
    "a drive": (lambda path: pack(path, {"C:\\out.png": b"x"}), "no plain file"),
    "a name of 300 letters": (lambda path: pack(path, {f"{'a' * 300}.png": b"x"}), "no plain"),
    "a line break": (lambda path: pack(path, {"a\nb.png": b"x"}), "no plain file"),
    "a hundred folders": (lambda path: pack(path, {"a/" * 100 + "a.png": b"x"}), "no plain"),
    "a link": (of_link, "no plain file"),
    "a name twice": (twice, "twice"),
    "file and folder": (lambda path: pack(path, {"a.png": b"x", "a.png/b.png": b"x"}), "archive"),
    "a bomb": (lambda path: pack(path, {"a.csv": bytes(2**26)}), "unpacks to more"),
    "many small bombs": (
        lambda path: pack(path, {f"{number}.csv": bytes(2**20) for number in range(40)}),
        "unpacks to more",
    ),
    "a lie": (lying, "damaged"),
    "a password": (locked, "without a password"),
    "a damaged entry": (broken, "damaged"),
    "no archive": (lambda path: path.write_bytes(b"no archive at all"), "no zip archive"),
    "cut off": (
        lambda path: path.write_bytes(pack(path, FILES).read_bytes()[:-30]),
        "no zip archive",
    ),
    "nothing": (lambda path: pack(path, {}), "neither photos nor tables"),
    "only other files": (lambda path: pack(path, {"a.exe": b"x"}), "neither photos nor tables"),
    "a table without photos": (
        lambda path: pack(path, {"captions.csv": TABLE.encode()}),
        "No row of the archive is good; line 2, 0.png: ",
    ),
    "a table of something else": (lambda path: pack(path, {"a.csv": b"x,y\n1,2\n"}), "archive"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_archive_that_is_refused_leaves_nothing(kind: str, tmp_path: Path) -> None:
    make, sentence = REFUSED[kind]
    archive, home = tmp_path / "data.zip", tmp_path / "deep" / "home"
    make(archive)
    with pytest.raises(ArchiveError, match=sentence) as caught:
        take_in(archive, archive.name, home)
    said = str(caught.value)
    assert "\n" not in said and said.endswith(".") and str(tmp_path) not in said, said
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left <= {"data.zip", "deep", "deep/home"}


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvla.data.archive.MOST_FILES", 3)
    with pytest.raises(ArchiveError, match="has 4 files, and 3 may be"):
        unpack(pack(tmp_path / "data.zip", FILES), tmp_path / "data")
