from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from qvla.errors import QvlaError
from qvla.records import store as records


def a_record(what: str = "bench/core", **changes: object) -> records.Record:
    fields = {
        "what": what,
        "model": "some/model",
        "variants": ("base", "qvla"),
        "data": records.Data(name="three photos", items=3, fingerprint="sha256:00"),
        "numbers": {"time_ratio": 1.5, "weight_bytes": 12, "peak_bytes": None},
        "protocol": {"repeats": 3, "decoding": {"num_beams": 1}},
        "hardware": records.Hardware(system="Linux", processor="a", cores=2, memory_bytes=1),
        "versions": {"torch": "2"},
        "commit": None,
        "date": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    }
    return records.Record(**{**fields, **changes})


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record = a_record()
    path = records.write(record, tmp_path / "new" / "folder")
    assert records.read(path) == record
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no temporary left


def test_the_file_is_plain_json_that_other_tools_can_read(tmp_path: Path) -> None:
    content = json.loads(records.write(a_record(), tmp_path).read_text())
    assert content["record"] == 1
    assert content["numbers"] == {"time_ratio": 1.5, "weight_bytes": 12, "peak_bytes": None}
    assert isinstance(content["numbers"]["weight_bytes"], int)
    assert datetime.fromisoformat(content["date"].replace("Z", "+00:00")).year == 2026


def test_two_records_of_one_second_do_not_overwrite_each_other(tmp_path: Path) -> None:
    assert records.write(a_record(), tmp_path) != records.write(a_record(), tmp_path)
    assert len(records.read_all(tmp_path)) == 2


def test_all_readable_records_come_oldest_first_and_the_rest_is_told(tmp_path: Path) -> None:
    day = timedelta(days=1)
    early = a_record(date=datetime(2026, 1, 1, tzinfo=UTC))
    late = a_record(date=early.date + day)
    for record, name in ((late, "a.json"), (early, "b.json")):
        records.write(record, tmp_path).rename(tmp_path / name)
    good = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "cut.json").write_text('{"record": 1, "what"')
    (tmp_path / "foreign.json").write_text("[1, 2]")
    (tmp_path / "future.json").write_text(json.dumps({**good, "record": 2}))
    (tmp_path / "lacking.json").write_text(
        json.dumps({key: value for key, value in good.items() if key != "hardware"})
    )
    (tmp_path / "infinite.json").write_text(json.dumps({**good, "numbers": {"x": float("inf")}}))
    problems: list[str] = []
    assert records.read_all(tmp_path, problems.append) == [early, late]
    assert len(problems) == 5
    for name in ("cut", "foreign", "future", "lacking", "infinite"):
        assert sum(f"{name}.json" in problem for problem in problems) == 1
    assert any("schema 2" in problem for problem in problems)


def test_records_are_found_by_kind_in_several_folders_with_their_files(tmp_path: Path) -> None:
    day = timedelta(days=1)
    first = a_record("evaluation", date=datetime(2026, 1, 1, tzinfo=UTC))
    other = a_record("bench/core", date=first.date + day)
    last = a_record("evaluation", date=first.date + 2 * day)
    paths = {
        records.write(record, tmp_path / folder): record
        for folder, record in (("here", last), ("shipped", first), ("here", other))
    }
    folders = [tmp_path / "here", tmp_path / "shipped", tmp_path / "nowhere"]
    assert [kept.record for kept in records.find(None, folders)] == [first, other, last]
    found = records.find("evaluation", folders)
    assert [kept.record for kept in found] == [first, last]
    assert all(paths[kept.path] == kept.record for kept in found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda whole: whole[: len(whole) // 2], "is damaged: it is not JSON"),
        (lambda whole: "", "is damaged: it is not JSON"),
        (lambda whole: whole.replace('"record": 1', '"record": 7'), "has schema 7; only 1"),
        (lambda whole: whole.replace('"record": 1,', ""), "is not a record of this project"),
        (lambda whole: whole.replace('"model": "some/model",', ""), "is damaged at model"),
        (lambda whole: whole.replace('"record": 1,', '"record": 1, "mood": 1,'), "at mood"),
        (lambda whole: whole.replace("1.5", '"fast"'), "is damaged at numbers.time_ratio"),
    ],
)
def test_a_file_that_is_no_record_is_skipped_with_a_message_that_says_why(
    tmp_path: Path, change: Callable[[str], str], words: str
) -> None:
    good = a_record()
    path = records.write(good, tmp_path)
    changed = change(path.read_text())
    assert changed != path.read_text()
    (tmp_path / "changed.json").write_text(changed)
    problems: list[str] = []
    assert [kept.record for kept in records.find(None, [tmp_path], problems.append)] == [good]
    [problem] = problems
    assert "changed.json" in problem and words in problem
    assert problem.endswith("It was left out.") and "\n" not in problem


def test_series_and_files_come_back_as_they_were_written(tmp_path: Path) -> None:
    record = a_record(
        series={"qvla/training_seconds": (0.0, 0.1), "qvla/training_bytes": (1e9, 2.5e9)},
        files={"predictions/base": "evaluations/x/base.jsonl"},
    )
    path = records.write(record, tmp_path / "runs" / "records")
    assert records.read(path) == record
    content = json.loads(path.read_text())
    assert content["series"]["qvla/training_bytes"] == [1e9, 2.5e9]
    [kept] = records.find("bench/core", [path.parent])
    there = tmp_path / "runs" / "evaluations" / "x" / "base.jsonl"
    assert kept.file("predictions/base") == there.resolve()
    assert kept.file("predictions/adapter") is None


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../secret", "link/secret"])
def test_files_outside_of_the_record_s_surroundings_are_not_given(
    tmp_path: Path, path: str
) -> None:
    (tmp_path / "secret").write_text("")
    root = tmp_path / "runs"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    written = records.write(a_record(files={"it": path}), root / "records")
    [kept] = records.find(None, [written.parent])
    assert kept.file("it") is None


def test_a_missing_folder_holds_no_records(tmp_path: Path) -> None:
    assert records.read_all(tmp_path / "nothing") == []


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(QvlaError, match="cannot be written"):
        records.write(a_record(), tmp_path / "file" / "folder")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_only_finite_numbers_are_recorded(number: float) -> None:
    for numbers in ({"numbers": {"ratio": number}}, {"series": {"seconds": (0.0, number)}}):
        with pytest.raises(ValueError):
            a_record(**numbers)


def test_a_date_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError):
        a_record(date=datetime(2026, 1, 1))


def test_the_fingerprint_follows_contents_and_order_but_not_names(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b", "c")]
    for file, content in zip(files, ("one", "two", "one"), strict=True):
        file.write_text(content)
    a, b, c = files
    parts = [hashlib.sha256(text).digest() for text in (b"one", b"two")]
    assert records.fingerprint([a, b]) == "sha256:" + hashlib.sha256(b"".join(parts)).hexdigest()
    assert records.fingerprint([a, b]) == records.fingerprint([c, b])
    assert records.fingerprint([a, b]) != records.fingerprint([b, a])
    assert records.fingerprint([a], ["two"]) == records.fingerprint([a, b])
    assert records.fingerprint([a], ["t", "wo"]) != records.fingerprint([a], ["two"])


def test_a_new_record_names_this_machine_and_moment() -> None:
    import torch

    record = records.new_record(
        "test", model="m", variants=["base"], data=None, numbers={}, protocol={}
    )
    assert record.versions["torch"] == torch.__version__
    assert record.hardware.memory_bytes > 2**28
    assert len(record.hardware.accelerators) == torch.cuda.device_count()
    assert abs(datetime.now(UTC) - record.date) < timedelta(minutes=1)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_commit_is_that_of_our_own_checkout_and_of_no_repository_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = ["-c", "user.name=They", "-c", "user.email=they@example.org"]
    for words in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "Theirs"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(records, "CHECKOUT", tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", records.commit())
    (tmp_path / "unpacked").mkdir()
    for folder in (tmp_path / "unpacked", None):
        monkeypatch.setattr(records, "CHECKOUT", folder)
        assert records.commit() is None
