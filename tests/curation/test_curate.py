"""Curation against a real server on this machine, on its good days and its bad ones."""

from __future__ import annotations

import csv
import json
import logging
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
from PIL import Image

from qvla.curation.curate import TRIES, UNANSWERED_MOST, Curation, Tally, Waits
from qvla.curation.endpoint import LONGEST_SIDE, Endpoint
from qvla.curation.keys import (
    LIMITED_MOST,
    LONGEST_REST,
    AllKeysExhausted,
    CurationError,
    KeyPool,
    read_keys,
)
from qvla.curation.rows import COLUMNS, answer_file
from qvla.data.questions import read_questions
from qvla.errors import QvlaError
from tests.support.vision_server import (
    EXPECTED,
    VisionServer,
    coloured_photos,
    failing,
    half,
    half_json,
    saying,
    silent,
    vision_server,
)

COLOUR, OTHER = "What is the colour?", 'Is it, say, "red"?'
PLENTY = 1000


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return coloured_photos(tmp_path / "photos")


def curate(
    server: VisionServer,
    photos: Path,
    out: Path,
    clock: Clock,
    keys: tuple[str, ...] = ("a-first", "b-second"),
    questions: tuple[str, ...] = (COLOUR,),
    per_minute: float = 0.0,
    timeout: float = 600.0,
) -> Tally:
    """One run whose waits take no time; half of each backoff is chance, and that is all there."""
    pool = KeyPool(keys, per_minute, now=clock, sleep=clock.sleep)
    waits = Waits(sleep=clock.sleep, jitter=lambda: 1.0)
    with (
        Endpoint(server.address, "eyes", httpx.Timeout(timeout)) as endpoint,
        answer_file(out) as file,
    ):
        return Curation(endpoint, pool, file, waits).run(photos, questions)


def rows(out: Path) -> list[dict[str, str]]:
    if out.suffix == ".jsonl":
        return [json.loads(line) for line in out.read_text().splitlines()]
    with out.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames) == COLUMNS
        return list(reader)


def answers(out: Path) -> dict[str, str]:
    return {row["Filename"]: row["Answer"] for row in rows(out)}


@pytest.mark.parametrize("name", ["answers.csv", "answers.jsonl"])
def test_each_question_about_each_photo_is_a_row_by_keys_in_turn(
    photos: Path, tmp_path: Path, clock: Clock, name: str
) -> None:
    out = tmp_path / name
    with vision_server(**{"a-first": PLENTY, "b-second": PLENTY}) as server:
        tally = curate(server, photos, out, clock, questions=(COLOUR, OTHER))
        assert tally == Tally(answered=6)
        assert [one.key for one in server.requests] == ["a-first", "b-second"] * 3
        assert server.requests[0].body["model"] == "eyes"
    found = rows(out)
    assert [row["Question"] for row in found] == [COLOUR, OTHER] * 3
    assert {row["Filename"]: row["Answer"] for row in found} == EXPECTED
    assert len({row["ID"] for row in found}) == 6
    assert clock.slept == []
    examples = read_questions(out, photos)
    assert [one.image for one in examples] == [photos / row["Filename"] for row in found]
    assert [(one.name, one.question, *one.references) for one in examples] == [
        (row["ID"], row["Question"], row["Answer"]) for row in found
    ]


def test_large_photos_are_made_smaller_and_what_is_none_is_passed_over(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (3000, 750), (20, 200, 20)).save(folder / "a.tif")
    (folder / "b.png").write_bytes(b"no picture")
    with vision_server(one=PLENTY) as server:
        tally = curate(server, folder, tmp_path / "out.csv", clock, ("one",))
        (request,) = server.requests
    assert request.photo.size == (LONGEST_SIDE, 256) and request.photo.format == "JPEG"
    assert tally == Tally(unreadable=1, answered=1)
    assert "b.png: " in caplog.text


def test_a_run_goes_on_where_one_ended_and_asks_nothing_twice(
    photos: Path, tmp_path: Path, clock: Clock
) -> None:
    out = tmp_path / "out.csv"
    with vision_server(one=2, two=PLENTY) as server:
        with pytest.raises(AllKeysExhausted):
            curate(server, photos, out, clock, ("one",))
        before = out.read_bytes()
        assert len(rows(out)) == 2
        out.write_bytes(before + b'0123456789a,"What is the col')  # as a kill may leave it
        assert curate(server, photos, out, clock, ("two",)) == Tally(answered=1)
        assert out.read_bytes().startswith(before)
        assert answers(out) == EXPECTED
        assert curate(server, photos, out, clock, ("two",)) == Tally()
        assert server.answered == {"one": 2, "two": 1}


def test_keys_that_are_refused_or_spent_leave_the_pool_with_one_warning_each(
    photos: Path, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    keys = ("unknown-to-the-server", "spent-from-the-start", "good-for-all")
    with vision_server(**{keys[1]: 0, keys[2]: PLENTY}) as server:
        curate(server, photos, tmp_path / "out.csv", clock, keys)
        assert Counter(one.key for one in server.requests) == {
            keys[0]: 1,
            keys[1]: 1,
            keys[2]: 3,
        }
    warnings = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert [one.split(" (")[0] for one in warnings] == ["Key 1", "Key 2"]
    assert "refuses it" in warnings[0] and "quota is gone" in warnings[1]
    assert not any(key in caplog.text for key in keys)
    assert clock.slept == []


@pytest.mark.parametrize("status", [401, 402, 403])
def test_with_no_key_left_the_run_ends(
    photos: Path, tmp_path: Path, clock: Clock, status: int
) -> None:
    with vision_server(one=PLENTY, two=PLENTY) as server:
        server.script[:] = [failing(status), failing(status)]
        with pytest.raises(AllKeysExhausted, match="used up or refused"):
            curate(server, photos, tmp_path / "out.csv", clock, ("one", "two"))
        assert len(server.requests) == 2


def test_a_key_that_is_too_fast_rests_as_long_as_it_is_told(
    photos: Path, tmp_path: Path, clock: Clock
) -> None:
    with vision_server(one=PLENTY, two=PLENTY) as server:
        server.script[:] = [failing(429, code="rate_limit_exceeded", Retry_After="20")]
        curate(server, photos, tmp_path / "out.csv", clock, ("one", "two"))
        assert [one.key for one in server.requests] == ["one", "two", "two", "two"]
        assert clock.slept == []  # the other key goes on meanwhile
        server.script[:] = [failing(429, code="rate_limit_exceeded", Retry_After="20")]
        curate(server, photos, tmp_path / "again.csv", clock, ("one",))
        assert clock.slept == [20]


def test_a_date_to_come_back_at_is_understood(photos: Path, tmp_path: Path, clock: Clock) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)
    with vision_server(one=PLENTY) as server:
        server.script[:] = [failing(429, Retry_After=date)]
        curate(server, photos, tmp_path / "out.csv", clock, ("one",))
    (slept,) = clock.slept
    assert 0 < slept <= 600


def test_a_key_that_never_gets_through_counts_as_spent(
    photos: Path, tmp_path: Path, clock: Clock
) -> None:
    with vision_server(one=PLENTY) as server:
        server.script[:] = [failing(429) for _ in range(LIMITED_MOST)]
        with pytest.raises(AllKeysExhausted):
            curate(server, photos, tmp_path / "out.csv", clock, ("one",))
        assert len(server.requests) == LIMITED_MOST
        assert clock.slept == [min(2.0**n, 60) for n in range(LIMITED_MOST - 1)]
        server.script[:] = [failing(429, Retry_After=str(LONGEST_REST + 1))]
        with pytest.raises(AllKeysExhausted):
            curate(server, photos, tmp_path / "out.csv", clock, ("one",))


def test_a_busy_server_is_asked_again_at_growing_distances(
    photos: Path, tmp_path: Path, clock: Clock
) -> None:
    out = tmp_path / "out.csv"
    with vision_server(one=PLENTY) as server:
        server.script[:] = [failing(500), half, half_json, failing(503, Retry_After="30")]
        assert curate(server, photos, out, clock, ("one",)) == Tally(answered=3)
        assert len(server.requests) == 7
    assert clock.slept == [1, 2, 4, 30]
    assert answers(out) == EXPECTED


def test_half_of_a_backoff_is_chance() -> None:
    assert [Waits(jitter=lambda: 0.0).backoff(n) for n in (0, 1, 9)] == [0.5, 1, 30]
    assert [Waits(jitter=lambda: 1.0).backoff(n) for n in (0, 1, 9)] == [1, 2, 60]


def test_a_server_that_does_not_answer_is_asked_again(
    photos: Path, tmp_path: Path, clock: Clock
) -> None:
    out = tmp_path / "out.csv"
    with vision_server(one=PLENTY) as server:
        server.script[:] = [silent]
        assert curate(server, photos, out, clock, ("one",), timeout=1.0) == Tally(answered=3)
        assert len(server.requests) >= 4
    assert clock.slept[0] == 1 and answers(out) == EXPECTED


def test_what_has_no_answer_is_told_and_asked_again_next_time(
    photos: Path, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out.csv"
    with vision_server(one=PLENTY) as server:
        server.script[:] = [
            failing(400, "Not allowed"),
            saying(None),
            saying("dark red"),
        ]
        assert curate(server, photos, out, clock, ("one",)) == Tally(
            unanswered=2, answered=1, wordy=1
        )
        assert "Not allowed" in caplog.text and "is empty" in caplog.text
        server.script[:] = [failing(500) for _ in range(TRIES)]
        assert curate(server, photos, out, clock, ("one",)) == Tally(unanswered=1, answered=1)
        assert curate(server, photos, out, clock, ("one",)) == Tally(answered=1)
        assert len(rows(out)) == 3


def test_an_endpoint_that_answers_nothing_ends_the_run(
    photos: Path, tmp_path: Path, clock: Clock
) -> None:
    questions = tuple(f"question {n}" for n in range(UNANSWERED_MOST))
    with vision_server(one=PLENTY) as server:
        server.script[:] = [failing(400) for _ in range(PLENTY)]
        with pytest.raises(CurationError, match="in a row had no answer"):
            curate(server, photos, tmp_path / "out.csv", clock, ("one",), questions)
        assert len(server.requests) == UNANSWERED_MOST
        server.script[:] = [failing(404, "The model `eyes` does not exist")]
        with pytest.raises(CurationError, match="404 The model `eyes` does not exist: check"):
            curate(server, photos, tmp_path / "out.csv", clock, ("one",))


def test_no_key_is_sent_to_where_it_is_redirected(
    photos: Path, tmp_path: Path, clock: Clock
) -> None:
    with vision_server(one=PLENTY) as server, vision_server(one=PLENTY) as other:
        server.script[:] = [failing(307, Location=f"{other.address}/chat/completions")]
        with pytest.raises(CurationError, match="307"):
            curate(server, photos, tmp_path / "out.csv", clock, ("one",))
        assert other.requests == []


def test_each_key_keeps_to_its_rate(photos: Path, tmp_path: Path, clock: Clock) -> None:
    with vision_server(one=PLENTY, two=PLENTY) as server:
        questions = (COLOUR, OTHER)
        curate(server, photos, tmp_path / "out.csv", clock, ("one", "two"), questions, per_minute=6)
        assert [one.key for one in server.requests] == ["one", "two"] * 3
    assert clock.slept == [10, 10]  # six requests, of which two may be made every ten seconds


def test_what_is_no_key_and_no_file_of_answers_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text("# mine\n\n sk-one \nsk-two\nsk-one\n")
    assert read_keys(file) == ["sk-one", "sk-two"]
    for content in ("", "# none\n", "two words\n", "schlüssel\n"):
        file.write_text(content)
        with pytest.raises(CurationError) as caught:
            read_keys(file)
        assert "words" not in str(caught.value) and "schl" not in str(caught.value)
    with pytest.raises(CurationError):
        read_keys(tmp_path / "nowhere")
    for name, content in (
        ("a.csv", "image,caption\n"),
        ("b.csv", "ID,Question,Answer,Filename\n1,2\n"),
        ("c.jsonl", "[]\n"),
        ("d.jsonl", '{"ID": "1"}\n'),
        ("e.jsonl", "half a line"),
        ("f.csv", "\xff"),
        ("g.txt", ""),
    ):
        path = tmp_path / name
        path.write_text(content, encoding="latin-1")
        with pytest.raises(CurationError), answer_file(path):
            pass
        assert path.read_text(encoding="latin-1") == content
    for address in ("api.example.com/v1", "ftp://api.example.com", "https://"):
        with pytest.raises(CurationError, match=r"^The endpoint must be an address"):
            Endpoint(address, "eyes")


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    with (
        answer_file(tmp_path / "out.csv"),
        pytest.raises(QvlaError, match="Another process is curating into"),
        answer_file(tmp_path / "out.csv"),
    ):
        pass
