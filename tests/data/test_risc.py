from __future__ import annotations

import csv
from pathlib import Path

import pytest

from qvla.data.examples import read_examples
from qvla.data.risc import DatasetError, groups
from qvla.errors import QvlaError

CAPTIONS = [f"caption_{number}" for number in range(1, 6)]
HEADER = ["source", "split", "image", *CAPTIONS]
ROWS = [
    ["Farm", "train", "b.jpg", "a field .", "green, and wide .", "three", "four", "five"],
    ["Coast", "val", "a.jpg", "a beach .", "", "  ", "waves .", ""],
    ["Farm", "val", "c.jpg", "one", "two", "three", "four", "five"],
    ["Farm", "train", "d.jpg", "", "", "", "", ""],
]


def write(folder: Path, header: list[str], rows: list[list[str]], **options) -> Path:
    with (folder / "captions.csv").open("w", newline="", **options) as file:
        csv.writer(file).writerows([header, *rows])
    return folder


def test_rows_become_examples_in_file_order(tmp_path: Path) -> None:
    examples = read_examples(write(tmp_path, HEADER, ROWS))
    assert [example.name for example in examples] == ["b.jpg", "a.jpg", "c.jpg", "d.jpg"]
    first = examples[0]
    assert (first.source, first.split) == ("Farm", "train")
    assert first.references == ("a field .", "green, and wide .", "three", "four", "five")
    assert first.image == tmp_path / "b.jpg"


def test_empty_captions_are_left_out(tmp_path: Path) -> None:
    examples = read_examples(str(write(tmp_path, HEADER, ROWS)))
    assert examples[1].references == ("a beach .", "waves .")
    assert examples[3].references == ()


@pytest.mark.parametrize("folder", ["resized", "images"])
def test_images_may_lie_in_a_folder_of_their_own(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    examples = read_examples(write(tmp_path, HEADER, ROWS))
    assert examples[0].image == tmp_path / folder / "b.jpg"


def test_splits_and_sources_choose(tmp_path: Path) -> None:
    write(tmp_path, HEADER, ROWS)

    def names(**choice) -> list[str]:
        return [example.name for example in read_examples(tmp_path, **choice)]

    assert names(splits=["val"]) == ["a.jpg", "c.jpg"]
    assert names(sources=["Farm"]) == ["b.jpg", "c.jpg", "d.jpg"]
    assert names(splits=["val"], sources=["Farm"]) == ["c.jpg"]
    assert names(splits=[]) == names(sources=[]) == []
    assert names(sources=["farm"]) == []


def test_groups_keep_the_order_of_first_appearance(tmp_path: Path) -> None:
    grouped = groups(read_examples(write(tmp_path, HEADER, ROWS)))
    assert list(grouped) == [("Farm", "train"), ("Coast", "val"), ("Farm", "val")]
    assert [example.name for example in grouped["Farm", "train"]] == ["b.jpg", "d.jpg"]


def test_other_orders_more_columns_and_fewer_captions_are_tolerated(tmp_path: Path) -> None:
    header = ["image", "scene", "caption_2", "split", "source", "caption_1"]
    rows = [["x.png", "beach", "second", "test", "Here", "first"]]
    (example,) = read_examples(write(tmp_path, header, rows))
    assert (example.name, example.source, example.split) == ("x.png", "Here", "test")
    assert example.references == ("first", "second")


def test_ragged_rows_are_tolerated(tmp_path: Path) -> None:
    rows = [["Farm", "val", "a.jpg", "one"], ["Farm", "val", "b.jpg", *"12345", "six", "7"]]
    examples = read_examples(write(tmp_path, HEADER, rows))
    assert [example.references for example in examples] == [("one",), ("1", "2", "3", "4", "5")]


def test_a_byte_order_mark_and_other_letters(tmp_path: Path) -> None:
    rows = [["Côte", "val", "plage é.jpg", "une plage dorée ."]]
    (example,) = read_examples(write(tmp_path, HEADER, rows, encoding="utf-8-sig"))
    assert (example.source, example.name) == ("Côte", "plage é.jpg")
    assert example.references == ("une plage dorée .",)


def test_a_table_without_rows_has_no_examples(tmp_path: Path) -> None:
    assert read_examples(write(tmp_path, HEADER, [])) == []


def test_dataset_errors_are_for_users() -> None:
    assert issubclass(DatasetError, QvlaError)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no data folder"):
        read_examples(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"captions\.csv"):
        read_examples(tmp_path)
    write(tmp_path, ["image", "caption_1"], [["a.jpg", "x"]])
    with pytest.raises(DatasetError, match="source, split"):
        read_examples(tmp_path)


def test_an_empty_table_lacks_its_columns(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_bytes(b"")
    with pytest.raises(DatasetError, match="source, split, image"):
        read_examples(tmp_path)


def test_another_encoding_is_said(tmp_path: Path) -> None:
    write(tmp_path, HEADER, [["Côte", "val", "a.jpg"]], encoding="latin-1")
    with pytest.raises(DatasetError, match="UTF-8"):
        read_examples(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("", "  ", "..", ".", "../secret.jpg", "/etc/passwd", "a/../../b.jpg"),
        *("..\\secret.jpg", "C:\\photos\\a.jpg", "C:/a.jpg", "x" * 300, "é" * 130 + "/a.jpg"),
        "a field by a road " * 17,
    ],
)
def test_an_image_name_never_leaves_the_folder(tmp_path: Path, name: str) -> None:
    write(tmp_path, HEADER, [ROWS[0], ["Farm", "val", name, "a field ."]])
    with pytest.raises(DatasetError, match="line 3"):
        read_examples(tmp_path)


def test_a_bad_row_is_told_by_its_line_in_the_file(tmp_path: Path) -> None:
    """Not by its number: a caption may go over several lines, and lines may be blank."""
    text = (
        'source,split,image,caption_1\nFarm,val,a.jpg,"one\nand\ntwo"\n\nFarm,val,../b.jpg,three\n'
    )
    (tmp_path / "captions.csv").write_text(text)
    assert text.splitlines()[5].startswith("Farm,val,../b.jpg")
    with pytest.raises(DatasetError, match="line 6"):
        read_examples(tmp_path)


def test_the_line_in_another_encoding_is_told(tmp_path: Path) -> None:
    write(tmp_path, HEADER, [ROWS[0], ["Côte", "val", "a.jpg"]], encoding="latin-1")
    with pytest.raises(DatasetError, match="line 3"):
        read_examples(tmp_path)


def test_the_table_stands_for_its_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    write(tmp_path, HEADER, ROWS)
    assert read_examples(tmp_path / "captions.csv") == read_examples(tmp_path)


@pytest.mark.parametrize("folder", ["resized", "images", "."])
def test_photos_may_lie_in_folders_within(tmp_path: Path, folder: str) -> None:
    """As RSICD's in folders of scenes, which may hold photos of one name."""
    for scene in ("airport", "beach"):
        (tmp_path / folder / scene).mkdir(parents=True)
        (tmp_path / folder / scene / "b.jpg").touch()
    names = ["airport/b.jpg", "./beach/b.jpg", "airport\\b.jpg", "beach/gone.jpg"]
    examples = read_examples(write(tmp_path, HEADER, [["R", "val", n, "x"] for n in names]))
    assert [item.name for item in examples] == [
        *("airport/b.jpg", "beach/b.jpg", "airport/b.jpg", "beach/gone.jpg")
    ]
    assert [item.image.relative_to(tmp_path / folder).as_posix() for item in examples] == [
        *("airport/b.jpg", "beach/b.jpg", "airport/b.jpg", "beach/gone.jpg")
    ]


def test_a_path_may_begin_at_the_data_s_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").touch()
    (example,) = read_examples(write(tmp_path, HEADER, [["R", "val", "images/a.jpg", "x"]]))
    assert example.image == tmp_path / "images" / "a.jpg"


def test_synonyms_of_splits_are_one_split(tmp_path: Path) -> None:
    names = ["Train", "training", "validation", " VALID", "dev", "TEST", "Testing", "held-out"]
    write(tmp_path, HEADER, [["R", name, f"{n}.jpg", "x"] for n, name in enumerate(names)])
    assert [item.split for item in read_examples(tmp_path)] == [
        *("train", "train", "val", "val", "val", "test", "test", "held-out")
    ]
    for asked in ("val", "validation", "Val"):
        found = read_examples(tmp_path, splits=[asked])
        assert [item.name for item in found] == ["2.jpg", "3.jpg", "4.jpg"]


def test_a_split_or_source_without_a_row_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    write(tmp_path, HEADER, ROWS)
    for choice, said in (
        ({"splits": ["train", "test"]}, "no row in the split 'test': its splits are train, val."),
        ({"splits": ["test"], "sources": ["Farm"]}, "of Farm in the split 'test': its splits are"),
        ({"splits": ["val"], "sources": ["UCM"]}, "of UCM in the split 'val': its sources are"),
    ):
        with pytest.raises(DatasetError, match=said) as refusal:
            read_examples(tmp_path, **choice)
        assert "\n" not in str(refusal.value)


def test_a_quote_that_is_never_closed_is_told_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text(
        'source,split,image,caption_1\nR,val,a.jpg,"a ""big"" field"\n'
        'R,val,b.jpg,"a road\nR,val,c.jpg,a beach\n'
    )
    with pytest.raises(DatasetError, match="line 3: a quote is opened here and never closed"):
        read_examples(tmp_path)


def test_a_cell_without_end_is_told_by_its_line(tmp_path: Path) -> None:
    lines = "".join(f"R,val,{n}.jpg,a beach by the sea\n" for n in range(6000))
    (tmp_path / "captions.csv").write_text(
        f'source,split,image,caption_1\nR,val,a.jpg,"a road\n{lines}'
    )
    with pytest.raises(DatasetError, match="close the quote"):
        read_examples(tmp_path)
