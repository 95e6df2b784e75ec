"""Data in the forms people have, read where it lies: what is found, and what is said of it."""

from __future__ import annotations

import csv
import json
import logging
import os
from pathlib import Path

import pytest

from qvla.data.check import check
from qvla.data.examples import read_examples
from qvla.data.risc import DatasetError, fingerprint
from tests.support.foreign import photo, write_parquet

COLOURS = ("red", "lime", "blue")


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QVLA_HOME", str(tmp_path / "qvla"))


def write_photos(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for colour in COLOURS:
        (folder / f"{colour}.jpg").write_bytes(photo(colour))
    return folder


def coco(colours: tuple[str, ...] = COLOURS) -> dict[str, object]:
    """As captions_val2017.json: two captions a photo, in no order; the last photo has none."""
    return {
        "info": {"year": 2017},
        "images": [
            {"id": 40 + n, "file_name": f"{c}.jpg", "height": 16} for n, c in enumerate(colours)
        ],
        "annotations": [
            {"id": 9, "image_id": 40, "caption": f"all {colours[0]}\n"},
            *(
                {"id": n, "image_id": 40 + n, "caption": f"a {c} field"}
                for n, c in enumerate(colours[:-1])
            ),
        ],
    }


def karpathy() -> dict[str, object]:
    """As dataset_rsicd.json."""
    splits = ("train", "val", "test")
    return {
        "dataset": "rsicd",
        "images": [
            {
                "filename": f"{colour}.jpg",
                "imgid": number,
                "split": split,
                "sentids": [number],
                "sentences": [
                    {"raw": f"a {colour} field .", "tokens": ["a", colour, "field"], "imgid": 0},
                    {"tokens": ["all", colour], "sentid": 1},
                ],
            }
            for number, (colour, split) in enumerate(zip(COLOURS, splits, strict=True))
        ],
    }


def said(caplog: pytest.LogCaptureFixture) -> str:
    """What was said of the data: one sentence, once."""
    (sentence,) = [one.getMessage() for one in caplog.records if "is read as" in one.getMessage()]
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="qvla")
    return caplog


def test_coco_captions_by_file(tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    file = write_photos(tmp_path / "own") / "captions_val2017.json"
    file.write_text(json.dumps(coco()))
    red, lime, blue = read_examples(file)
    assert (red.name, red.key, red.split) == ("red.jpg", "40", "val")
    assert red.references == ("all red", "a red field")
    assert (lime.references, blue.references) == (("a lime field",), ())
    assert red.image == tmp_path / "own" / "red.jpg"
    assert read_examples(str(file), splits=["val"]) == [red, lime, blue]
    assert "COCO captions: 3 photos with 3 captions, in val" in said(heard)


def test_coco_as_it_is_unpacked(tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    """annotations/ beside a folder of photos a split, with files of boxes among the captions."""
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        write_photos(tmp_path / f"{split}2017")
        (tmp_path / "annotations" / f"captions_{split}2017.json").write_text(json.dumps(coco()))
    boxes = {"images": [{"id": 1, "file_name": "x"}], "annotations": [{"image_id": 1, "bbox": []}]}
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(boxes))
    examples = read_examples(tmp_path)
    assert [(item.split, item.image.parent.name) for item in examples] == [
        *[("train", "train2017")] * 3,
        *[("val", "val2017")] * 3,
    ]
    assert "6 photos with 6 captions, in train, val" in said(heard)
    with pytest.raises(DatasetError, match="COCO file without captions"):
        read_examples(tmp_path / "annotations" / "instances_val2017.json")


def test_karpathy_s_splits(tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    write_photos(tmp_path / "RSICD_images")
    (tmp_path / "dataset_rsicd.json").write_text(json.dumps(karpathy()))
    examples = read_examples(tmp_path)
    assert [(item.source, item.split, item.name, item.key) for item in examples] == [
        ("rsicd", "train", "red.jpg", "0"),
        ("rsicd", "val", "lime.jpg", "1"),
        ("rsicd", "test", "blue.jpg", "2"),
    ]
    assert examples[0].references == ("a red field .", "all red")
    assert all(item.image.read_bytes() == photo(item.image.stem) for item in examples)
    assert read_examples(tmp_path / "dataset_rsicd.json") == examples
    assert "Karpathy's splits" in heard.text
    assert check(tmp_path).problems == ()


def test_an_image_folder(tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    """As the datasets library has it: metadata beside the photos, a folder a split."""
    write_photos(tmp_path / "train")
    write_photos(tmp_path / "test" / "more")
    with (tmp_path / "train" / "metadata.csv").open("w", newline="") as file:
        rows = [["file_name", "text"], *([f"{c}.jpg", f"a {c} field, wide"] for c in COLOURS)]
        csv.writer(file).writerows(rows)
    (tmp_path / "test" / "metadata.jsonl").write_text(
        json.dumps({"file_name": "more/red.jpg", "captions": ["one", "two"]}) + "\n"
    )
    examples = read_examples(tmp_path)
    assert [(item.split, item.name, item.references) for item in examples] == [
        ("test", "more/red.jpg", ("one", "two")),
        ("train", "red.jpg", ("a red field, wide",)),
        ("train", "lime.jpg", ("a lime field, wide",)),
        ("train", "blue.jpg", ("a blue field, wide",)),
    ]
    assert all(item.image.is_file() for item in examples)
    assert "image folder" in said(heard)


def test_the_datasets_library_reads_the_same(tmp_path: Path) -> None:
    import datasets

    folder = write_photos(tmp_path / "data")
    (folder / "metadata.jsonl").write_text(
        "".join(json.dumps({"file_name": f"{c}.jpg", "text": f"a {c} sea"}) + "\n" for c in COLOURS)
    )
    theirs = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache")
    )
    ours = read_examples(folder)
    assert {item.split for item in ours} == set(theirs) == {"train"}
    found = {Path(row["image"].filename).name: row["text"] for row in theirs["train"]}
    assert {item.name: item.references[0] for item in ours} == found


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("refs.csv", "file_name,caption\nred.jpg,a field\nlime.jpg,a sea\nred.jpg,a road\n"),
        ("refs.tsv", "Image\tCaption\nred.jpg\ta field\nlime.jpg\ta sea\nred.jpg\ta road\n"),
        ("results.csv", "image| caption\nred.jpg| a field\nlime.jpg| a sea\nred.jpg| a road\n"),
        ("my captions.csv", "image,caption_1,caption_2\nred.jpg,a field,a road\nlime.jpg,a sea,\n"),
        (
            "refs.jsonl",
            '{"image": "red.jpg", "captions": ["a field", "a road"]}\n\n'
            '{"image": "lime.jpg", "captions": ["a sea"]}\n',
        ),
        ("refs.json", '{"red.jpg": ["a field", "a road"], "lime.jpg": "a sea"}'),
        (
            "list.json",
            '[{"image": "red.jpg", "caption": "a field"}, {"image": "lime.jpg", "caption":'
            ' "a sea"}, {"image": "red.jpg", "caption": "a road"}]',
        ),
    ],
)
def test_a_table_by_any_name(
    tmp_path: Path, heard: pytest.LogCaptureFixture, name: str, content: str
) -> None:
    folder = write_photos(tmp_path / "photos")
    (folder / name).write_text(content)
    red, lime = read_examples(folder / name)
    assert (red.name, red.references) == ("red.jpg", ("a field", "a road"))
    assert (lime.name, lime.references) == ("lime.jpg", ("a sea",))
    assert red.image.read_bytes() == photo("red")
    assert "2 photos with 3 captions" in said(heard)
    assert {item.name for item in read_examples(folder)} == {"red.jpg", "lime.jpg"}


def test_a_folder_of_photos(tmp_path: Path, heard: pytest.LogCaptureFixture) -> None:
    folder = write_photos(tmp_path / "mine" / "airport").parent
    write_photos(folder / "test")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.jpg").touch()
    (folder / "UPPER.JPG").write_bytes(photo("white"))
    (folder / "notes.txt").write_text("none")
    examples = read_examples(folder)
    assert [item.name for item in examples] == [
        *("UPPER.JPG", "airport/blue.jpg", "airport/lime.jpg", "airport/red.jpg"),
        *("test/blue.jpg", "test/lime.jpg", "test/red.jpg"),
    ]
    assert {item.source for item in examples} == {"mine"}
    assert [item.split for item in examples] == [""] * 4 + ["test"] * 3
    assert "a folder of photos without captions: 7 photos, in test." in said(heard)
    with pytest.raises(DatasetError, match="No photo of mine has a caption") as refusal:
        read_examples(folder, splits=["val"])
    assert "\n" not in str(refusal.value)


def test_a_photo_s_name_that_is_no_utf_8(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos")
    path = os.path.join(os.fsencode(folder), "café.jpg".encode("latin-1"))
    try:
        with open(path, "wb") as file:
            file.write(photo("white"))
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    examples = {item.name: item for item in read_examples(folder)}
    assert examples["caf\\xe9.jpg"].image.read_bytes() == photo("white")
    json.dumps(list(examples), ensure_ascii=False).encode()
    assert len(fingerprint(list(examples.values()))) == 64


def test_parquet_by_any_case(tmp_path: Path) -> None:
    columns = {"image": [{"bytes": photo("red"), "path": "a.jpg"}], "caption": ["x"]}
    file = write_parquet(tmp_path / "data" / "TRAIN.PARQUET", columns)
    for source in (file, file.parent):
        (example,) = read_examples(source)
        assert (example.name, example.split) == ("a.jpg", "train")
    assert read_examples(file)[0].source == "TRAIN"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "is not JSON"),
        ("a.json", "[" * 100_000, "is not JSON"),
        ("a.json", "7", "neither a JSON object nor a list"),
        ("a.json", '{"images": 3}', "holds no captions"),
        ("a.json", "[1]", "entry 1, is no JSON object"),
        ("a.json", '[{"image": "a.jpg", "label": 3}]', "no column of captions .*image, label"),
        ("a.jsonl", '{"caption": "x"}\n', "no column of image names"),
        ("a.jsonl", '{"image": "a", "caption": "x"}\nnot', "line 2, is not JSON"),
        ("a.csv", "image,label\na.jpg,3\n", "no column of captions"),
        (
            "a.json",
            '[{"image": "../a.jpg", "caption": "x"}]',
            "line 1: .* leaves the data's folder",
        ),
        ("a.json", '[{"image": "\\ud800", "caption": "x"}]', "half a character"),
        ("a.xlsx", "PK", "neither a folder nor a table of captions"),
    ],
)
def test_what_holds_no_captions(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DatasetError, match=message) as refusal:
        read_examples(tmp_path / name)
    assert "\n" not in str(refusal.value)


def test_a_folder_of_nothing_and_one_of_several_tables(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"neither a captions\.csv.* nor captions in JSON"):
        read_examples(tmp_path)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("image,caption\nx.jpg,y\n")
    with pytest.raises(DatasetError, match=r"several tables of captions \(a\.csv, b\.csv\)"):
        read_examples(tmp_path)
    with pytest.raises(DatasetError, match="no data folder or file"):
        read_examples("x" * 300)
