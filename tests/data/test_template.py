"""Captions made of a catalogue's attributes: what a template may ask for, and who lacks it."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import pytest

from qvla.data.check import ODD_ROW, check
from qvla.data.examples import read_examples
from qvla.data.tables import DatasetError
from qvla.data.template import Template
from tests.support.catalogue import caption_of, products, write_catalogue

README = "{title}: {attributes.color}, {attributes.pattern}"


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    return write_catalogue(tmp_path / "catalogue")


def test_every_product_has_the_caption_that_plain_formatting_gives(catalogue: Path) -> None:
    for split, count in (("train", 18), ("val", 6)):
        examples = read_examples(catalogue, splits=[split], template=README)
        assert len(examples) == count
        for example in examples:
            product = products()[int(example.image.stem)]
            assert example.references == (caption_of(product),)
            assert example.image.parent == catalogue / split


def test_columns_of_a_csv_may_have_points_in_their_names(catalogue: Path) -> None:
    table = catalogue / "val" / "metadata.csv"
    lines = (catalogue / "val" / "metadata.jsonl").read_text().splitlines()
    (catalogue / "val" / "metadata.jsonl").unlink()
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "title", "attributes.color", "attributes.pattern"])
        for row in map(json.loads, lines):
            writer.writerow([row["file_name"], row["title"], *list(row["attributes"].values())[:2]])
    [first, *_] = read_examples(catalogue, splits=["val"], template=README)
    assert first.references == (caption_of(products()[3]),)


def test_lists_numbers_and_doubled_braces() -> None:
    template = Template.parse("{{{a.b}}} in {sizes} for {price}, new: {new}")
    values = {"a": {"b": "x"}, "sizes": ["S", "M"], "price": 9.5, "new": True}
    assert template.fill(values) == "{x} in S, M for 9.5, new: yes"


@pytest.mark.parametrize(
    "asked",
    ["{title.__class__.__init__}", "{title!r:>9}", "{title:>9}", "{0[title]}", "{}", "{a..b}"],
)
def test_only_names_are_looked_up(asked: str, catalogue: Path) -> None:
    with pytest.raises(DatasetError) as told:
        read_examples(catalogue, template=f"a {asked} bag")
    assert "\n" not in str(told.value) and str(told.value).endswith(".")


@pytest.mark.parametrize(("text", "told"), [("a bag", "names no column"), ("{title", "cannot be")])
def test_what_is_no_template_is_refused(text: str, told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        Template.parse(text)


def test_a_name_that_no_row_has_is_told_with_those_that_there_are(catalogue: Path) -> None:
    with pytest.raises(DatasetError, match=r"asks for attributes\.colour, which no row.*has file_"):
        read_examples(catalogue, template="{attributes.colour} {title}")


def test_a_row_that_lacks_a_name_has_no_caption_and_says_why(
    catalogue: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="qvla")
    table = catalogue / "val" / "metadata.jsonl"
    first, *others = map(json.loads, table.read_text().splitlines())
    del first["attributes"]["color"]
    table.write_text("".join(json.dumps(row) + "\n" for row in (first, *others)))
    found = read_examples(catalogue, splits=["val"], template=README)
    assert [bool(example.references) for example in found] == [False] + [True] * 5
    told = [one for one in check(catalogue, README).problems if one.kind == ODD_ROW]
    assert [(one.image, one.line) for one in told] == [(first["file_name"], 1)]
    assert "lacks attributes.color" in told[0].message


def test_data_with_captions_of_its_own_takes_no_template(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("source,split,image,caption_1\na,train,b.png,c\n")
    with pytest.raises(DatasetError, match="no caption template can be used"):
        read_examples(tmp_path, template="{image}")
