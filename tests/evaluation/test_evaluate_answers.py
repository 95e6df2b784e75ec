"""Questions answered by the variants and scored: kept as a record, and taken up again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from qvla.captioning.attention import where_it_looked
from qvla.captioning.decoding import Decoding
from qvla.captioning.lineup import Lineup
from qvla.cli.main import main
from qvla.data.questions import read_questions
from qvla.data.risc import Example
from qvla.errors import UNUSABLE
from qvla.evaluation.answers_table import answers_table
from qvla.evaluation.evaluate import Evaluation, evaluate
from qvla.evaluation.scores import Scoring
from qvla.records import store as records
from qvla.scoring.answers import VTGS, most_of, overlap, score_answers
from qvla.settings import Settings, load_settings
from tests.support.alone import LENGTH, Alone, Weights, make_weights, photos
from tests.support.tiny_clip import build_tiny_clip

QUESTIONS = ("is the beach white", "many trees", "is the forest next to a river")
VARIANTS = ("base", "adapter")
METRICS = ("exact_match", "f1", "csns", "vtgs")
SCORING = Scoring(metrics=METRICS, resamples=20)


@pytest.fixture(scope="module")
def weights(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return make_weights(tiny_checkpoint, tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def settings(weights: Weights) -> Settings:
    return load_settings(
        model=str(weights.model), adapter=str(weights.adapter), device="cpu", precision="fp32"
    )


@pytest.fixture(scope="module")
def lineup(settings: Settings) -> Lineup:
    return Lineup.load(settings.model, adapter=settings.adapter, device="cpu", variants=VARIANTS)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six questions about two photos, of two types."""
    folder = tmp_path_factory.mktemp("questions")
    rows = []
    for number, photo in enumerate(photos(2)):
        photo.save(folder / f"{number}.png")
        for kind, question in zip(("yes/no", "count", "yes/no"), QUESTIONS, strict=True):
            row = {"image": f"{number}.png", "question": question, "type": kind, "split": "val"}
            rows.append(row | {"answer": "trees" if kind == "count" else f"are {number}"})
    path = folder / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def evaluated(
    settings: Settings, lineup: Lineup, questions: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Evaluation, list[Example], Path]:
    folder = tmp_path_factory.mktemp("out")
    examples = read_questions(questions)
    return run(settings, examples, folder, lineup), examples, folder


def run(settings: Settings, examples: list[Example], out: Path, lineup: Lineup) -> Evaluation:
    return evaluate(
        settings,
        examples,
        VARIANTS,
        data="made",
        out=out / "evaluations",
        records_folder=out / "records",
        decoding=Decoding(max_new_tokens=LENGTH),
        scoring=SCORING,
        lineup=lineup,
    )


def test_answers_are_those_of_the_model_alone(
    evaluated: tuple[Evaluation, list[Example], Path], weights: Weights
) -> None:
    evaluation, examples, _ = evaluated
    for name, adapter in (("base", None), ("adapter", weights.adapter)):
        alone = Alone(weights.model, adapter)
        for example in examples:
            inputs = alone.processor(
                images=photos(2)[int(example.image.stem)],
                text=f"<image>answer en {example.question}",
                return_tensors="pt",
            )
            inputs.pop("labels", None)
            with torch.no_grad():
                tokens = alone.model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)
            said = tokens[0, inputs["input_ids"].shape[1] :]
            text = alone.processor.tokenizer.decode(said, skip_special_tokens=True).strip()
            assert evaluation.predictions.captions[name][example.name] == text


def test_the_record_has_scores_by_source_and_type(
    evaluated: tuple[Evaluation, list[Example], Path], lineup: Lineup
) -> None:
    evaluation, examples, _ = evaluated
    record = evaluation.record
    assert (record.what, record.protocol["task"], record.items) == ("answers", "vqa", 6)
    assert record.protocol["types"] == ["yes/no", "count"]
    assert record.protocol["protocols"] == ["answers"]
    pictures = photos(2)
    groups = {"all": examples, "questions": examples}
    groups |= {
        f"type {kind}": [one for one in examples if one.kind == kind]
        for kind in ("yes/no", "count")
    }
    for name in VARIANTS:
        said = evaluation.predictions.captions[name]
        seen = {}
        for one in examples:
            looked = where_it_looked(
                lineup,
                name,
                pictures[int(one.image.stem)],
                f"answer en {one.question}",
                said[one.name],
            )
            seen[one.name] = overlap(most_of(looked.answer), most_of(looked.question))
        for group, own in groups.items():
            scored = score_answers(
                {one.name: one.references for one in own},
                {one.name: said[one.name] for one in own},
                overlaps={VTGS: seen},
                metrics=METRICS,
                resamples=20,
            )
            assert record.numbers[f"answers/{group}/questions"] == len(own)
            for metric, found in scored.metrics.items():
                key = f"answers/{name}/{group}/{metric}"
                told = [record.number(f"{key}{end}") for end in ("", "/low", "/high", "/std")]
                expected = [found.value, found.low, found.high, found.std]
                assert told == pytest.approx(expected, abs=1e-6)
    # Always the commonest answer: trees to both that count, one of two to the rest.
    assert record.number("answers/majority/type count/exact_match") == 1
    assert record.number("answers/majority/type yes/no/exact_match") == 0.5
    assert record.number("answers/majority/all/exact_match") == pytest.approx(4 / 6)
    assert "answers/adapter-minus-base/all/f1/p_value" in record.numbers


def test_what_was_cut_off_is_looked_at_again(
    evaluated: tuple[Evaluation, list[Example], Path],
    settings: Settings,
    lineup: Lineup,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluation, examples, folder = evaluated
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    own = copy / "evaluations" / evaluation.predictions.folder.name
    whole = {name: (own / f"{name}.looked.jsonl").read_bytes() for name in VARIANTS}
    assert all(len(content.splitlines()) == 6 for content in whole.values())
    cut = whole["base"].split(b"\n")
    (own / "base.looked.jsonl").write_bytes(b"\n".join(cut[:2]) + b"\n" + cut[2][:9])
    again = run(settings, examples, copy, lineup)
    assert again.predictions.made == {"base": 0, "adapter": 0}
    assert {name: (own / f"{name}.looked.jsonl").read_bytes() for name in VARIANTS} == whole
    for key, value in evaluation.record.numbers.items():
        if key.startswith("answers/"):
            assert again.record.numbers[key] == value
    monkeypatch.setattr("qvla.evaluation.looking.load_lineup", refuse)
    monkeypatch.setattr("qvla.evaluation.predictions.load_lineup", refuse)
    run(settings, examples, copy, None)  # everything is there, so no weights are loaded


def refuse(*_: object) -> None:
    raise AssertionError("weights were loaded")


def test_tables_show_types_and_what_was_reported(
    evaluated: tuple[Evaluation, list[Example], Path],
) -> None:
    record = evaluated[0].record
    lines = answers_table(record).splitlines()
    assert "6 questions of made, val" in lines[0]
    head = next(line for line in lines if "exact_match" in line and "csns" in line)
    assert head.split() == list(METRICS)
    (count,) = (place for place, line in enumerate(lines) if "type count, 2" in line)
    value = record.number("answers/base/type count/f1")
    assert lines[count].split()[3] == "base" and f" {value:.3f} (" in lines[count]
    assert lines[count + 2].split()[:2] == ["majority", "1.000"]
    assert any("answers exact_match" in line for line in lines)  # the verdict
    (blip,) = (line for line in lines if "table 1" in line)
    assert blip.split()[-4:] == ["0.4247", "0.6075", "0.6967", "0.7627"]
    assert any("not measured here" in line for line in lines)


@pytest.fixture
def unlogged() -> Iterator[None]:
    import logging

    own = logging.getLogger("qvla")
    yield
    own.handlers[:], own.propagate = [], True
    own.setLevel(logging.NOTSET)


def test_through_the_command_line(
    weights: Weights,
    questions: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    unlogged: None,
) -> None:
    command = [
        *("evaluate", "--task", "vqa", "--data", str(questions), "--split", "validation"),
        *("--model", str(weights.model), "--device", "cpu", "--variant", "base", "--limit", "3"),
        *("--max-new-tokens", "4", "--resamples", "20", "--no-vtgs"),
        *("--records", str(tmp_path / "records"), "--json"),
    ]
    assert main(command) == 0
    printed = capsys.readouterr()
    numbers = json.loads(printed.out)["numbers"]
    assert numbers["answers/all/questions"] == 3
    assert 0 <= numbers["answers/base/all/bertscore_f1"] <= 1
    assert "answers/base/all/vtgs" not in numbers
    (kept,) = records.find("answers", [tmp_path / "records"])
    assert kept.file("predictions/base") is not None
    command.remove("--no-vtgs")
    command += ["--clip-model", str(build_tiny_clip(tmp_path / "clip"))]
    assert main(command) == 0
    record = json.loads(capsys.readouterr().out)
    assert 0 <= record["numbers"]["answers/base/all/vtgs_clip"] <= 1
    assert record["protocol"]["clip"] == str(tmp_path / "clip")
    assert main([*command[:3], "--data", str(questions), "--split", "test"]) == UNUSABLE
    assert "has no questions in the split 'test': its splits are val" in capsys.readouterr().err
