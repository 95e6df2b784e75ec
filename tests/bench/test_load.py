"""A crowd against a real app of a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvla.bench.load import Told
from qvla.cli import main as cli
from qvla.records import store as records
from tests.support.serving import add_adapters, write_risc_folder
from tests.support.tiny import build_tiny


def test_percentiles_are_of_the_answers_there_are() -> None:
    told = Told(seconds=[float(second) for second in range(1, 102)], took=50.5)
    assert (told.percentile(50), told.percentile(95), told.rate) == (51.0, 96.0, 2.0)
    assert Told().percentile(50) is None
    assert Told(seconds=[3.0]).percentile(95) == 3.0


def test_a_crowd_of_nobody_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--suite", "load", "--clients", "0"]) == 2
    assert "must be at least 1" in capsys.readouterr().err


@pytest.mark.slow
def test_a_crowd_is_answered_or_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = add_adapters(build_tiny(tmp_path / "model"))
    rows = [("RSICD", "val", f"{name}.png", ["many green trees"]) for name in "abc"]
    data = write_risc_folder(tmp_path / "data", rows)
    monkeypatch.setenv("QVLA_CONCURRENCY", "1")
    monkeypatch.setenv("QVLA_QUEUE_SIZE", "1")  # so that of eight some are refused
    words = (
        f"bench --suite load --clients 8 --seconds 3 --new-tokens 6 --model {model} --data {data}"
    )
    assert cli.main([*words.split(), "--records", str(tmp_path / "records")]) == 0
    said = capsys.readouterr().out
    [kept] = records.find("bench/load", [tmp_path / "records"], lambda problem: None)
    number = kept.record.number
    assert kept.record.protocol["first_failures"] == []
    for phase in ("before", "together", "after"):
        assert number(f"{phase}/answers") > 0 and number(f"{phase}/failures") == 0
        assert 0 < number(f"{phase}/p50_seconds") <= number(f"{phase}/p95_seconds")
    assert number("together/refusals") > 0 == number("before/refusals")
    alone = number("alone_answers_per_second")
    ratio = number("together/answers_per_second") / alone
    assert number("together_to_alone_ratio") == pytest.approx(ratio)
    assert number("settled_bytes") > 10**8
    assert f"{ratio:.2f} times as many a second" in said
