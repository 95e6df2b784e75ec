"""Files of captions from anywhere: what is read and what is refused, each in a sentence."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from qvla.scoring import ScoringError, entries, read_predictions


def written(folder: Path, content: bytes | str) -> Path:
    path = folder / "theirs.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def row(image: object, caption: object = "a quay", **more: object) -> str:
    return json.dumps({"image": image, "caption": caption, **more})


def test_order_is_kept_and_other_fields_are_passed_over(tmp_path: Path) -> None:
    text = "\n".join([row("b.png", "Boats ."), "", row("a.png", "", source=3, x=[1]), " \r"])
    assert read_predictions(written(tmp_path, text)) == {"b.png": "Boats .", "a.png": ""}
    assert list(read_predictions(str(written(tmp_path, text)))) == ["b.png", "a.png"]


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_line_ends_and_a_mark_of_utf_8_do_no_harm(tmp_path: Path, ending: str) -> None:
    content = b"\xef\xbb\xbf" + (row("é.png", "Zürich\u2028\x85") + ending).encode()
    assert read_predictions(written(tmp_path, content)) == {"é.png": "Zürich\u2028\x85"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no captions"),
        ("\n \n", "holds no captions"),
        (f"{row('a')}\n{row('b')}\n{row('a')}\n", "line 3, captions a again, after line 1"),
        (f"{row('a')}\n\nnot json", "line 3, is not JSON"),
        ("image,label\na,b\n", "line 1, is not JSON"),
        ("image,caption\na,b\nc,d,e\n", "line 3: there are 3 cells, but 2 columns"),
        ('image,caption\na,"b\nc,d\n', "line 2: a quote is opened here and never closed"),
        ("image,caption\na,b\na,c\n", "line 3, captions a again, after line 2"),
        ("image,caption\né,b\n".encode("latin-1"), r"theirs\.jsonl is not in UTF-8 \(see line 2"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "line 1, is not JSON in UTF-8"),
        (row("a").encode("utf-16"), "line 1, is not JSON in UTF-8"),
        (f"[{row('a')}, 3]", "entry 2, is not a JSON object"),
        ("[]", "holds no captions"),
        ('[{"image_id": 1, "caption": "x"}, {"image_id": 1, "caption": "y"}]', "captions 1 again"),
        ('{"a.png": ["x", "y"]}', "entry 1, has no text in the field caption"),
        ('{"photo": "a", "variants": {"base": {}, "qvla": {}}}', "captions of base, qvla"),
        ("null", "line 1, is not a JSON object"),
        ("[" * 5000, "line 1, is not JSON"),
        ('{"a": ' * 5000, "line 1, is not JSON"),
        ('{"image": "a"}', "line 1, has no text in the field caption"),
        (row(7), "line 1, has no text in the field image"),
        (row("\ud800"), "line 1, has half a character in the field image"),
        (row("a", ["b"]), "line 1, has no text in the field caption"),
        (row(""), "line 1, has an empty field image"),
        (row("a", "\ud800"), "line 1, has half a character in the field caption"),
        (row("a" * 300), "line 1, has more than 255 characters in the field image"),
        (row("a", "b" * 5001), "line 1, has more than 5,000 characters in the field caption"),
        (f"{row('a')}\n" + "x" * 70_000, "line 2, is longer than 64 KiB"),
    ],
)
def test_what_is_no_file_of_captions_is_refused(
    tmp_path: Path, content: bytes | str, said: str
) -> None:
    with pytest.raises(ScoringError, match=said) as refusal:
        read_predictions(written(tmp_path, content))
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (
            '[{"image_id": 7, "caption": "a quay"}, {"image_id": "b", "caption": "c"}]',
            "COCO results",
        ),
        (
            '[\n {"image_id": 7,\n "caption": "a quay"},\n {"image": "b", "caption": "c"}\n]\n',
            "COCO",
        ),
        ('[{"file_name": "7", "caption": "a quay"}, {"image": "b", "caption": "c"}]', "a list"),
        ('{"7": "a quay", "b": "c"}', "captions by image name"),
        ('{\n  "7": "a quay",\n  "b": "c"\n}\n', "captions by image name"),
        ("image,caption\n7,a quay\nb,c\n", "a table in CSV"),
        ("\ufeffFile_Name;model;Caption\r\n7;x;a quay\r\nb;x;c\r\n", "a table in CSV"),
        ("image_id\tcaption\n7\ta quay\n\nb\tc\n", "a table in CSV"),
        (
            '{"images": [{"id": 1, "file_name": "7"}], "annotations": [{"image_id": 1, "caption": '
            '"a quay"}, {"image_id": "b", "caption": "c"}]}',
            "COCO captions",
        ),
        (
            '[{"photo": "7", "variants": {"qvla": {"caption": "a quay", "tokens": 3}}}, '
            '{"photo": "x", "error": "This is no photo."}, {"image": "b", "caption": "c"}]',
            "a list",
        ),
    ],
)
def test_other_forms_are_found_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str, kind: str
) -> None:
    with caplog.at_level(logging.INFO, logger="qvla"):
        found = read_predictions(written(tmp_path, content))
    assert found == {"7": "a quay", "b": "c"}
    (told,) = caplog.messages
    assert told.startswith(f"theirs.jsonl is read as {kind}") and told.endswith(": 2 captions.")


def test_what_is_read_whole_is_smaller(tmp_path: Path) -> None:
    many = json.dumps([{"image_id": n, "caption": "x" * 4000} for n in range(2200)])
    with pytest.raises(ScoringError, match="larger than the 8 MiB"):
        read_predictions(written(tmp_path, many))
    with pytest.raises(ScoringError, match="larger than the 8 MiB"):
        read_predictions(written(tmp_path, "image,caption\n" + "a,b\n" * 2**21))


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "zeros"
    with path.open("wb") as file:
        file.truncate(entries.MAX_BYTES + 1)
    with pytest.raises(ScoringError, match="larger than 64 MiB"):
        read_predictions(path)


def test_a_file_without_a_line_end_is_not_read_whole(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="line 1, is longer"):
        read_predictions(written(tmp_path, b" " * 2**20))


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="cannot be read: No such file"):
        read_predictions(tmp_path / "none.jsonl")
    with pytest.raises(ScoringError, match="cannot be read: Is a directory"):
        read_predictions(tmp_path)
