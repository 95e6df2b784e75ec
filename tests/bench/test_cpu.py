from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from qvla.bench import cpu, turns
from qvla.captioning.desk import Desk
from qvla.captioning.generation import Generation
from qvla.cli import main as cli
from qvla.data.risc import Example
from qvla.records import store as records
from tests.support.alone import make_weights, photos

TICK = 0.001


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "resized").mkdir(parents=True)
    rows = ["source,split,image,caption_1,caption_2"]
    for index, photo in enumerate(photos(3)):
        photo.save(folder / "resized" / f"{index}.png")
        rows.append(f"here,val,{index}.png,many green trees,some white houses next to a road")
    (folder / "captions.csv").write_text("\n".join(rows))
    return folder


def test_the_suite_from_the_command_line(
    tiny_checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = make_weights(tiny_checkpoint, tmp_path / "adapters")
    monkeypatch.setattr(cpu, "SCORED", 40)
    monkeypatch.setattr(cpu, "PHOTOS", 6)
    # A clock that goes on by a second for each caption and, when it is read, by a little.
    now, begin = 0.0, Desk.begin

    def read(device: object) -> float:
        nonlocal now
        now += TICK
        return now

    def begun(desk: Desk, generations: Sequence[Generation]) -> None:
        nonlocal now
        now += sum(len(one.images) * len(one.variants) for one in generations)
        begin(desk, generations)

    monkeypatch.setattr(turns, "clock", read)
    monkeypatch.setattr(Desk, "begin", begun)
    options = {
        "--model": weights.model,
        "--adapter": weights.adapter,
        "--nf4-adapter": weights.nf4_adapter,
        "--data": data,
        "--records": tmp_path / "records",
        "--device": "cpu",
        "--repeats": 1,
        "--photos": 2,
        "--new-tokens": 3,
    }
    given = [str(word) for pair in options.items() for word in pair]
    assert cli.main(["bench", "--suite", "cpu", *given, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    [kept] = records.find("bench/cpu", [tmp_path / "records"])
    assert printed == kept.record.model_dump(mode="json")
    numbers = kept.record.numbers
    assert kept.record.data.items == 6  # three photos that came round again
    assert numbers["evaluation_to_loop_ratio"] == pytest.approx(
        numbers["evaluation_seconds"] / numbers["loop_seconds"]
    )
    assert numbers["finished_to_evaluation_ratio"] == pytest.approx(
        numbers["finished_seconds"] / numbers["evaluation_seconds"]
    )
    half = numbers["second_half_seconds"] / numbers["evaluation_seconds"]
    assert numbers["resume_overhead_ratio"] == pytest.approx(half - 0.5)
    assert numbers["evaluation_seconds"] == numbers["loop_seconds"] == pytest.approx(18 + TICK)
    assert numbers["second_half_seconds"] == pytest.approx(9 + TICK)
    assert numbers["finished_seconds"] == pytest.approx(TICK)  # nothing is captioned again
    assert numbers["scoring_seconds"] > 0 and numbers["loading_seconds"] > 0

    text = cpu.table(kept.record)
    assert f"{1 / numbers['evaluation_to_loop_ratio']:.1f} times as fast" in text
    assert f"{numbers['scoring_seconds']:.2f} s" in text


def an_example(number: int, references: tuple[str, ...]) -> Example:
    return Example(Path(f"{number}.jpg"), "a", "val", references)


def test_captions_to_score_are_those_of_the_data_where_there_are_enough() -> None:
    texts = tuple(f"words of caption {index}" for index in range(5))
    data = [an_example(n, tuple(f"{text} of {n}" for text in texts)) for n in range(4460)]
    bare = [an_example(-1, ("too few",))]
    references, candidates = cpu.captions_to_score([*bare, *data])
    assert list(references) == [example.name for example in data[:4454]]
    assert references["7.jpg"] == list(data[7].references)
    assert candidates.keys() == references.keys()
    assert candidates["7.jpg"] == data[8].references[0]
    assert candidates["4453.jpg"] == data[0].references[0]


def test_captions_to_score_are_made_of_the_words_there_are_and_are_the_same_each_time() -> None:
    data = [an_example(n, ("some planes are parked", "the river is near a bridge")) for n in (1, 2)]
    references, candidates = cpu.captions_to_score(data)
    assert (references, candidates) == cpu.captions_to_score(data)
    assert len(references) == len(candidates) == 4454
    assert {len(texts) for texts in references.values()} == {5}
    every = [*candidates.values(), *(text for texts in references.values() for text in texts)]
    words = {word for example in data for text in example.references for word in text.split()}
    assert {word for text in every for word in text.split()} == words
    assert {len(text.split()) for text in every} == {4, 6}


def test_data_without_captions_is_refused(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "captions.csv").write_text("source,split,image\nhere,val,0.png\n")
    assert cli.main(["bench", "--suite", "cpu", "--data", str(data), "--device", "cpu"]) == 2
    assert "no photos with captions" in capsys.readouterr().err
