"""`qvla score` through the command line: what it prints, names and refuses."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from pycocoevalcap.cider.cider import Cider

from qvla.cli.main import main
from qvla.errors import UNUSABLE
from qvla.scoring import METRICS, score
from tests.support.made_captions import make

MADE = make(30)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A captions.csv with no images beside it: 20 val photos, 10 of train, in two sources."""
    path = tmp_path / "captions.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["source", "split", "image", *(f"caption_{n}" for n in range(1, 6))])
        for number, (image, texts) in enumerate(MADE.references.items()):
            source = "East" if number % 2 else "West"
            rows.writerow([source, "val" if number < 20 else "train", image, *texts])
    return path


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    path = tmp_path / "theirs.jsonl"
    path.write_text(
        "".join(
            json.dumps({"image": image, "caption": text, "model": "other"}) + "\n"
            for image, text in MADE.captions.items()
        )
    )
    return path


def command(captions: Path, references: Path, *more: str) -> list[str]:
    return ["score", "--predictions", str(captions), "--references", str(references), *more]


QUICK = ("--metrics", ",".join(METRICS), "--tokenizer", "python")


def test_json_of_both_protocols(
    table: Path, captions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    val = list(MADE.references)[:20]
    references = {name: MADE.references[name] for name in val}
    said = {name: MADE.captions[name] for name in val}
    for protocol, tokenizer, seed in (("standard", "python", None), ("reported", "none", 3)):
        more = ("--protocol", protocol, "--split", "val", "--seed", "3", "--resamples", "99")
        assert main(command(captions, table, *more, *QUICK, "--json")) == 0
        printed = capsys.readouterr()
        found = json.loads(printed.out)
        assert list(found)[:4] == ["protocol", "images", "tokenizer", "metrics"]
        assert (found["protocol"], found["images"]) == (protocol, 20)
        assert (found["tokenizer"], found["seed"], found["resamples"]) == (tokenizer, seed, 99)
        expected = score(
            references, said, protocol, seed=3, resamples=99, metrics=METRICS, tokenizer="python"
        )
        assert list(found["metrics"]) == list(METRICS)
        for name, ends in expected.metrics.items():
            assert found["metrics"][name] == {
                "value": ends.value,
                "low": ends.low,
                "high": ends.high,
            }
        assert found["missing_predictions"] == {"count": 0, "images": []}
        assert found["missing_references"] == {"count": 10, "images": list(MADE.references)[20:]}
        assert "fixed" in found["document_frequencies"]
    tokens = {name: MADE.reference_tokens[name] for name in val}
    value, _ = Cider().compute_score(tokens, {name: MADE.caption_tokens[name] for name in val})
    assert main(command(captions, table, "--split", "val", *QUICK, "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"]["CIDEr"]["value"] == pytest.approx(value, abs=1e-9)


def test_images_on_one_side_only_are_counted_and_named(
    table: Path, captions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = captions.read_text().splitlines()
    captions.write_text("\n".join([*lines[5:], json.dumps({"image": "new.png", "caption": "x"})]))
    assert main(command(captions, table, *QUICK, "--json")) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    names = list(MADE.references)
    assert found["images"] == 25
    assert found["missing_predictions"] == {"count": 5, "images": names[:5]}
    assert found["missing_references"] == {"count": 1, "images": ["new.png"]}
    assert "no caption: 5 (0000.png, 0001.png, 0002.png and 2 more)" in printed.err
    assert "no references: 1 (new.png)" in printed.err


def test_a_source_and_a_folder(
    table: Path, captions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--source", "East", "--split", "train,val", *QUICK, "--json")
    assert main(command(captions, table.parent, *more)) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 15


def test_the_table_says_what_the_json_says(
    table: Path, captions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(captions, table, *QUICK, "--json")) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]
    assert main(command(captions, table, *QUICK)) == 0
    head, _, _, *rows = capsys.readouterr().out.splitlines()
    assert "30 images, standard protocol" in head and "Python" in head
    assert len(rows) == len(METRICS)
    for line, (name, ends) in zip(rows, found.items(), strict=True):
        label, value, low, _, high = line.split()
        assert label == name
        assert [value, low, high] == [f"{ends[key]:.4f}" for key in ("value", "low", "high")]


def test_without_java_there_is_no_meteor_and_that_is_said(
    table: Path,
    captions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(command(captions, table, "--json")) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["tokenizer"] == "python"
    assert list(found["metrics"]) == list(METRICS)
    assert found["notes"] == ["METEOR is absent: there is no Java here."]
    assert found["notes"][0] in printed.err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--split", "test"), "no row in the split 'test': its splits are train, val."),
        (("--metrics", "SPICE"), "no metric SPICE"),
    ],
)
def test_what_cannot_be_scored(
    more: tuple[str, ...],
    said: str,
    table: Path,
    captions: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(captions, table, *more)) == UNUSABLE
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.count("\n") == 1 and printed.out == ""


def test_references_by_any_name_and_predictions_by_id(
    table: Path, captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """COCO's two files, Karpathy's, and a renamed table give the scores of captions.csv."""

    def scores(theirs: Path, references: Path) -> tuple[dict[str, object], str]:
        assert main(command(theirs, references, *QUICK, "--json")) == 0
        printed = capsys.readouterr()
        result = json.loads(printed.out)
        assert result["images"] == 30 and result["missing_references"]["count"] == 0
        return result["metrics"], printed.err

    expected, _ = scores(captions, table)
    renamed = tmp_path / "more" / "my references.csv"
    renamed.parent.mkdir()
    shutil.copy(table, renamed)
    assert scores(captions, renamed)[0] == expected

    ids = {image: 500 + number for number, image in enumerate(MADE.references)}
    coco = tmp_path / "captions_val2014.json"
    coco.write_text(
        json.dumps(
            {
                "images": [{"id": ids[image], "file_name": image} for image in ids],
                "annotations": [
                    {"image_id": ids[image], "caption": text}
                    for image, texts in MADE.references.items()
                    for text in texts
                ],
            }
        )
    )
    results = tmp_path / "results.json"
    said = [{"image_id": ids[image], "caption": text} for image, text in MADE.captions.items()]
    results.write_text(json.dumps(said))
    found, told = scores(results, coco)
    assert found == expected
    assert "results.json is read as COCO results: 30 captions." in told
    assert "COCO captions: 30 photos" in told
    assert "matched 30 by the references' image ids" in told

    karpathy = tmp_path / "dataset_made.json"
    images = [
        {"filename": image, "filepath": "x", "cocoid": ids[image], "split": "restval"}
        | {"sentences": [{"raw": text} for text in texts]}
        for image, texts in MADE.references.items()
    ]
    karpathy.write_text(json.dumps({"dataset": "made", "images": images}))
    assert scores(results, karpathy)[0] == expected
    found, told = scores(captions, karpathy)
    assert found == expected
    assert "matched 30 by their names without folders" in told
    assert "Scoring captions" not in told  # a bar is for a terminal


def test_progress_is_told(
    table: Path,
    captions: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QVLA_PROGRESS", "json")
    assert main(command(captions, table, *QUICK)) == 0
    errors = capsys.readouterr().err
    told = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    assert (told[0]["progress"], told[-1]["progress"]) == (0, told[-1]["total"])
    assert told[0]["what"] == "Scoring captions"


def test_two_captions_of_one_image_are_refused(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "theirs.json"
    theirs.write_text('{"0000.png": "x", "a/0001.png": "y", "b/0001.png": "z"}')
    assert main(command(theirs, table, *QUICK, "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 1  # which of two photos of one name is meant cannot be known
    assert found["missing_references"]["images"] == ["a/0001.png", "b/0001.png"]


def test_files_that_cannot_be_used(
    table: Path, captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = tmp_path / "strange.jsonl"
    strange.write_text('{"image": "elsewhere.png", "caption": "x"}\n')
    double = tmp_path / "double"
    double.mkdir()
    lines = table.read_text().splitlines()
    (double / "captions.csv").write_text("\n".join([*lines, lines[1]]))
    for theirs, references, said in (
        (strange, table, "None of the 1 captioned images (elsewhere.png)"),
        (table, table, "line 1, is not JSON"),
        (captions, double, "0000.png is listed twice"),
        (captions, tmp_path / "nowhere", "nowhere"),
    ):
        assert main(command(theirs, references, *QUICK)) == UNUSABLE
        printed = capsys.readouterr()
        assert said in printed.err and printed.err.count("\n") == 1 and printed.out == ""
