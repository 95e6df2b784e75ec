"""Photos captioned in batches and scored: whole, cut off and taken up again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qvla.captioning.decoding import Decoding
from qvla.captioning.generation import CaptioningError, OutOfMemoryError
from qvla.captioning.lineup import Lineup
from qvla.cli import main as cli
from qvla.data.examples import read_examples
from qvla.data.risc import Example
from qvla.errors import QvlaError
from qvla.evaluation import predictions
from qvla.evaluation.evaluate import EvaluationError, Scoring, choose, evaluate
from qvla.evaluation.prediction_log import PredictionLogError, held
from qvla.evaluation.predictions import Predictions, plan_for, predict
from qvla.evaluation.table import table, verdict
from qvla.records import store as records
from qvla.scoring import METRICS, compare, score
from qvla.settings import Settings, load_settings
from tests.support.alone import LENGTH, Alone, Weights, make_weights, photos
from tests.support.gates import Gate
from tests.support.tiny import build_tiny
from tests.support.waiting import PATIENCE

ROOT = Path(cli.__file__).resolve().parents[2]
DECODING = Decoding(max_new_tokens=LENGTH)
FLOATING = ("base", "adapter")
QUICK = Scoring(metrics=METRICS, resamples=50)


@pytest.fixture(autouse=True)
def messages_as_pytest_has_them() -> Iterator[None]:
    """The command line's own handler keeps messages from caplog."""
    own = logging.getLogger("qvla")
    own.handlers[:], own.propagate = [], True
    yield
    own.handlers[:], own.propagate = [], True
    own.setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def weights(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return make_weights(tiny_checkpoint, tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def settings(weights: Weights) -> Settings:
    return load_settings(
        model=str(weights.model),
        adapter=str(weights.adapter),
        nf4_adapter=str(weights.nf4_adapter),
        device="cpu",
        precision="fp32",
    )


@pytest.fixture(scope="module")
def lineup(settings: Settings) -> Lineup:
    return Lineup.load(
        settings.model,
        adapter=settings.adapter,
        nf4_adapter=settings.nf4_adapter,
        device="cpu",
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), 7)


@pytest.fixture(scope="module")
def examples(data: Path) -> list[Example]:
    return read_examples(data, splits=["val"])


@pytest.fixture(scope="module")
def expected(weights: Weights) -> dict[str, list[str]]:
    """What base and adapter say to the photos when each is loaded alone."""
    alone = {"base": Alone(weights.model), "adapter": Alone(weights.model, weights.adapter)}
    return {name: [model.text(photo) for photo in photos(7)] for name, model in alone.items()}


def write_data(folder: Path, count: int) -> Path:
    """Photos of two sources in the RISC layout, captioned with some words of the tiny model."""
    (folder / "resized").mkdir(parents=True)
    words = "many some planes buildings river forest airport green trees road beach sea".split()
    rows = ["source,split,image,caption_1,caption_2"]
    for index, photo in enumerate(photos(count)):
        photo.save(folder / "resized" / f"{index}.png")
        source = "north" if index % 3 else "south"
        captions = (" ".join(words[(index + n) % 12 :][:4]) for n in range(2))
        rows.append(f"{source},val,{index}.png,{','.join(captions)}")
    rows.append("north,train,0.png,not to be evaluated,")
    (folder / "captions.csv").write_text("\n".join(rows))
    return folder


def captioned(
    settings: Settings, examples: Sequence[Example], out: Path, **options: object
) -> Predictions:
    options = {"variants": FLOATING, "decoding": DECODING, **options}
    return predict(settings, examples, out=out, **options)


def rows(path: Path) -> list[dict[str, str]]:
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert all(row.pop("log_probability") < 0 for row in found)
    return found


# Captions


@pytest.mark.parametrize("batch_size", [None, 3])
def test_batches_say_what_each_variant_says_alone(
    settings: Settings,
    lineup: Lineup,
    examples: list[Example],
    expected: dict[str, list[str]],
    tmp_path: Path,
    batch_size: int | None,
) -> None:
    result = captioned(settings, examples, tmp_path, batch_size=batch_size, lineup=lineup)
    names = [example.name for example in examples]
    assert result.captions == {
        name: dict(zip(names, said, strict=True)) for name, said in expected.items()
    }
    for variant in FLOATING:
        assert rows(result.file(variant)) == [
            {"image": e.name, "source": e.source, "caption": text}
            for e, text in zip(examples, expected[variant], strict=True)
        ]
    assert result.made == {"base": 7, "adapter": 7}
    assert all(seconds > 0 for seconds in result.seconds.values())


def test_a_finished_evaluation_loads_no_weights(
    settings: Settings,
    lineup: Lineup,
    examples: list[Example],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = captioned(settings, examples, tmp_path, lineup=lineup)

    def refuse(*_: object) -> Lineup:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(predictions, "load_lineup", refuse)
    again = captioned(settings, examples, tmp_path)
    assert again.captions == first.captions
    assert again.made == {"base": 0, "adapter": 0}
    with pytest.raises(AssertionError, match="loaded"):  # so it would have been noticed
        captioned(settings, examples[:3], tmp_path)


def test_a_variant_asked_for_later_joins_those_that_are_there(
    settings: Settings, lineup: Lineup, examples: list[Example], tmp_path: Path
) -> None:
    base = captioned(settings, examples, tmp_path, variants=["base"], lineup=lineup)
    before = base.file("base").read_bytes()
    both = captioned(settings, examples, tmp_path, lineup=lineup)
    assert both.folder == base.folder
    assert both.made == {"base": 0, "adapter": 7}
    assert both.file("base").read_bytes() == before


def test_a_task_of_the_bank_is_evaluated_like_a_contender(
    settings: Settings,
    weights: Weights,
    data: Path,
    tmp_path: Path,
    expected: dict[str, list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(weights.adapter, tmp_path / "bank" / "ships")
    options = ["--data", str(data), "--no-meteor", "--resamples", "20", "--json"]
    options += ["--model", settings.model, "--device", "cpu", "--precision", "fp32"]
    options += ["--bank", str(tmp_path / "bank"), "--records", str(tmp_path / "records")]
    options += ["--max-new-tokens", str(LENGTH), "--protocol", "reported"]
    assert cli.main(["evaluate", *options, "--variant", "ships"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["variants"] == ["ships"]
    assert record["protocol"]["contenders"]["ships"]["adapter"] == "ships"
    assert record["protocol"]["contenders"]["ships"]["computes_in"] == "float32"
    [file] = (tmp_path / "evaluations").glob("*/ships.jsonl")
    said = {row["image"]: row["caption"] for row in rows(file)}
    assert said == {f"{n}.png": text for n, text in enumerate(expected["adapter"])}
    assert cli.main(["evaluate", *options, "--variant", "boats"]) == 2


def test_each_variant_gets_what_it_lacks_and_nothing_else(
    settings: Settings,
    lineup: Lineup,
    examples: list[Example],
    expected: dict[str, list[str]],
    tmp_path: Path,
) -> None:
    result = captioned(settings, examples, tmp_path, lineup=lineup)
    for variant, kept in (("base", 5), ("adapter", 2)):  # as if ended between two files
        lines = result.file(variant).read_bytes().splitlines(keepends=True)
        half = lines[kept][:-9] if variant == "base" else b""
        result.file(variant).write_bytes(b"".join(lines[:kept]) + half)
    again = captioned(settings, examples, tmp_path, lineup=lineup, batch_size=2)
    assert again.made == {"base": 2, "adapter": 5}
    assert again.captions == result.captions
    for variant in FLOATING:
        assert len(rows(again.file(variant))) == 7


@pytest.mark.parametrize(
    "line", [b"{", b"[1]", b'{"image": "0.png"}', b'{"image": 1, "source": "", "caption": ""}', b""]
)
def test_a_damaged_line_is_named(
    settings: Settings, lineup: Lineup, examples: list[Example], tmp_path: Path, line: bytes
) -> None:
    file = captioned(settings, examples[:2], tmp_path, lineup=lineup).file("base")
    file.write_bytes(file.read_bytes() + line + b"\n")
    with pytest.raises(PredictionLogError, match=r"base.jsonl is damaged at line 3: delete it"):
        captioned(settings, examples[:2], tmp_path, lineup=lineup)


def test_a_photo_captioned_twice_is_damage(
    settings: Settings, lineup: Lineup, examples: list[Example], tmp_path: Path
) -> None:
    file = captioned(settings, examples[:2], tmp_path, lineup=lineup).file("base")
    file.write_bytes(file.read_bytes() * 2)
    with pytest.raises(PredictionLogError, match="damaged at line 3"):
        captioned(settings, examples[:2], tmp_path, lineup=lineup)


def test_two_processes_do_not_write_into_one_folder(
    settings: Settings, lineup: Lineup, examples: list[Example], tmp_path: Path
) -> None:
    folder = tmp_path / plan_for(settings, examples, DECODING).folder
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from qvla.evaluation.prediction_log import held\n"
        "with held(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(PredictionLogError, match="Another process is captioning into"):
            captioned(settings, examples, tmp_path, lineup=lineup)
        assert not (folder / "base.jsonl").exists()
    finally:
        other.kill()
        other.communicate()
    assert captioned(settings, examples, tmp_path, lineup=lineup).made["base"] == 7
    with held(folder):  # all is there, so nobody needs to wait
        assert captioned(settings, examples, tmp_path).made["base"] == 0


def test_whatever_changes_captions_changes_the_folder(
    settings: Settings,
    weights: Weights,
    examples: list[Example],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def folder(own: Settings = settings, some: list[Example] = examples, **changes: object) -> str:
        return plan_for(own, some, replace(DECODING, **changes)).folder

    usual = folder()
    assert usual.startswith("val-")
    others = {
        folder(num_beams=2),
        folder(max_new_tokens=9),
        folder(some=examples[:-1]),
        folder(settings.model_copy(update={"precision": "bf16"})),
        folder(settings.model_copy(update={"adapter": str(weights.other_adapter)})),
        folder(settings.model_copy(update={"adapter": None})),
        folder(settings.model_copy(update={"nf4_embeddings": "bf16"})),
        plan_for(settings, examples, DECODING, "describe").folder,
    }
    assert len(others | {usual}) == 9
    with monkeypatch.context() as patch:
        patch.setattr(predictions, "SHAPING_CODE", ("captioning.py",))
        assert folder() != usual
    copied = shutil.copytree(weights.adapter, tmp_path / "under another name")
    assert folder(settings.model_copy(update={"adapter": str(copied)})) == usual
    changed = copied / "adapter_model.safetensors"
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    assert folder(settings.model_copy(update={"adapter": str(copied)})) != usual


# Memory


@contextmanager
def holding(lineup: Lineup, variant: str, most: int) -> Iterator[list[int]]:
    """A backbone that has memory for so many rows; the sizes of its batches come to the list."""
    sizes: list[int] = []

    def check(module: object, given: tuple[object, ...], named: dict[str, object]) -> None:
        count = len(named["pixel_values"] if "pixel_values" in named else given[0])
        sizes.append(count)
        if count > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    model = lineup.shared(variant).backbone.model
    [tower] = [m for name, m in model.named_modules() if name.endswith("vision_tower")]
    handle = tower.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield sizes
    finally:
        handle.remove()


def test_batches_are_halved_until_they_fit_and_no_photo_is_lost(
    settings: Settings,
    lineup: Lineup,
    examples: list[Example],
    expected: dict[str, list[str]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with holding(lineup, "base", 2) as sizes:
        result = captioned(settings, examples, tmp_path, lineup=lineup)
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    assert [list(said.values()) for said in result.captions.values()] == list(expected.values())
    assert result.batch_size == 1
    assert len(rows(result.file("base"))) == 7
    assert "Memory ran out with 7 photos at once; going on with 3." in caplog.messages


def test_memory_that_runs_out_on_one_backbone_loses_nothing_on_the_other(
    settings: Settings, lineup: Lineup, examples: list[Example], tmp_path: Path
) -> None:
    with holding(lineup, "qvla", 4) as sizes:
        result = captioned(
            settings, examples, tmp_path, lineup=lineup, variants=("base", "qvla"), batch_size=6
        )
    assert sizes == [6, 3, 3, 1]
    assert result.made == {"base": 7, "qvla": 7}
    for variant in ("base", "qvla"):
        assert [row["image"] for row in rows(result.file(variant))] == [e.name for e in examples]


def test_memory_for_not_even_one_photo_is_said(
    settings: Settings, lineup: Lineup, examples: list[Example], tmp_path: Path
) -> None:
    with (
        holding(lineup, "base", 0) as sizes,
        pytest.raises(OutOfMemoryError, match="Memory ran out on cpu"),
    ):
        captioned(settings, examples, tmp_path, lineup=lineup, batch_size=4)
    assert sizes == [4, 2, 1]
    assert captioned(settings, examples, tmp_path, lineup=lineup).made["base"] == 7


def test_other_faults_are_not_taken_for_a_lack_of_memory(
    settings: Settings, lineup: Lineup, examples: list[Example], tmp_path: Path
) -> None:
    text = Decoding(max_new_tokens=3)
    with pytest.raises(QvlaError, match="<bos>") as error:
        captioned(settings, examples, tmp_path, lineup=lineup, decoding=text, prefix="a <bos>")
    assert not isinstance(error.value, CaptioningError)


# What is evaluated


def test_a_limit_takes_the_same_even_sample_everywhere() -> None:
    many = [
        Example(Path(f"{n}.jpg"), "a" if n < 800 else "b", "val", ("words",)) for n in range(1000)
    ]
    small, large = choose(many, 100), choose(many, 300)
    assert len(small) == 100 and len(large) == 300
    assert set(small) < set(large)
    assert small == [example for example in many if example in set(small)]  # in order
    assert set(choose(many[::-1], 100)) == set(small)
    assert 65 < sum(example.source == "a" for example in small) < 95
    order = sorted(many, key=lambda e: hashlib.sha256(e.name.encode()).hexdigest())
    assert set(order[:100]) == set(small)
    assert choose(many, 5000) == choose(many) == many


def test_what_cannot_be_scored_is_left_out_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    good = Example(Path("a.jpg"), "a", "val", ("words",))
    bare = Example(Path("b.jpg"), "a", "val", ())
    assert choose([bare, good], 1) == [good]
    assert "b.jpg" in caplog.text
    with pytest.raises(EvaluationError, match=r"more than once.*a\.jpg"):
        choose([good, bare, good])
    for nothing in ([], [bare]):
        with pytest.raises(EvaluationError, match="no photos"):
            choose(nothing)


# The record


def test_the_record_holds_the_scores_of_the_captions_that_it_names(
    settings: Settings, lineup: Lineup, examples: list[Example], tmp_path: Path
) -> None:
    made = evaluate(
        settings,
        examples,
        data="photos",
        out=tmp_path / "evaluations",
        records_folder=tmp_path / "records",
        decoding=DECODING,
        scoring=QUICK,
        lineup=lineup,
    )
    records.write(made.record, tmp_path / "records")
    [kept] = records.find("evaluation", [tmp_path / "records"])
    record = kept.record
    assert record.variants == ("base", "adapter", "qvla")
    assert (record.data.name, record.data.items) == ("photos", 7)
    groups = {
        "all": examples,
        "north": [example for example in examples if example.source == "north"],
        "south": [example for example in examples if example.source == "south"],
    }
    expected: dict[str, float] = {}
    for protocol in ("standard", "reported"):
        for group, own in groups.items():
            expected[f"{protocol}/{group}/images"] = len(own)
            references = {example.name: example.references for example in own}
            scored = {}
            for variant in record.variants:
                said = {row["image"]: row for row in rows(kept.file(f"predictions/{variant}"))}
                assert {said[e.name]["source"] for e in own} == {e.source for e in own}
                candidates = {name: said[name]["caption"] for name in references}
                scored[variant] = score(
                    references, candidates, protocol, metrics=METRICS, resamples=50
                )
                for metric, interval in scored[variant].metrics.items():
                    key = f"{protocol}/{variant}/{group}/{metric}"
                    expected[key] = interval.value
                    expected[f"{key}/low"], expected[f"{key}/high"] = interval.low, interval.high
            for pair in (("adapter", "base"), ("qvla", "base"), ("qvla", "adapter")):
                found = compare(scored[pair[1]], scored[pair[0]], resamples=50)
                for metric, own_difference in found.items():
                    key = f"{protocol}/{'-minus-'.join(pair)}/{group}/{metric}"
                    expected[key] = own_difference.value
                    for end in ("low", "high", "p_value"):
                        expected[f"{key}/{end}"] = getattr(own_difference, end)
    speeds = {
        f"{variant}/{name}"
        for variant in record.variants
        for name in ("captioning_seconds", "images_per_second")
    }
    assert record.numbers.keys() == expected.keys() | speeds
    assert {key: record.numbers[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    for variant in record.variants:
        seconds = record.numbers[f"{variant}/captioning_seconds"]
        assert record.numbers[f"{variant}/images_per_second"] == pytest.approx(7 / seconds)
    assert record.protocol["document_frequencies"].startswith("held fixed")
    assert record.protocol["captioned_now"] == {"base": 7, "adapter": 7, "qvla": 7}

    again = evaluate(
        settings,
        examples,
        data="photos",
        out=tmp_path / "evaluations",
        records_folder=tmp_path / "records",
        decoding=DECODING,
        scoring=QUICK,
    )
    assert {key: again.record.numbers[key] for key in expected} == pytest.approx(expected)
    assert not speeds & again.record.numbers.keys()  # nothing was captioned, so nothing was timed
    text = table(again.record)
    assert "captioned before" in text and "a second" not in text
    cider = expected["standard/qvla/south/CIDEr"]
    assert f"{cider:.3f} (" in text


def a_difference(value: float, low: float, high: float, p_value: float) -> records.Record:
    key = "standard/qvla-minus-adapter/all/CIDEr"
    return records.new_record(
        "evaluation",
        model="m",
        variants=("adapter", "qvla"),
        data=None,
        numbers={key: value, f"{key}/low": low, f"{key}/high": high, f"{key}/p_value": p_value},
        protocol={"protocols": ["standard"]},
    )


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ((-0.02, -0.05, 0.01, 0.2), "QVLA and Adapter cannot be told apart on these photos"),
        ((-0.04, -0.06, -0.01, 0.002), "QVLA is worse than Adapter"),
        ((0.04, 0.01, 0.06, 0.002), "QVLA is better than Adapter"),
    ],
)
def test_the_verdict_follows_the_paired_bootstrap(
    difference: tuple[float, float, float, float], words: str
) -> None:
    sentence = verdict(a_difference(*difference), "adapter", "qvla")
    assert sentence.startswith(words) and sentence.endswith(".")
    assert f"CIDEr {difference[0]:+.3f}" in sentence and f"p = {difference[3]}" in sentence


def test_captions_that_lie_elsewhere_are_told_and_not_named(
    settings: Settings,
    lineup: Lineup,
    examples: list[Example],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = evaluate(
        settings,
        examples,
        ("base",),
        data="photos",
        out=tmp_path / "elsewhere",
        records_folder=tmp_path / "one" / "records",
        decoding=DECODING,
        scoring=QUICK,
        lineup=lineup,
    )
    assert made.record.files == {}
    assert "cannot name the captions" in caplog.text


# The command


def command(weights: Weights, data: Path, folder: Path, *more: object) -> list[str]:
    options = {
        "--model": weights.model,
        "--adapter": weights.adapter,
        "--nf4-adapter": weights.nf4_adapter,
        "--device": "cpu",
        "--data": data,
        "--records": folder / "records",
        "--max-new-tokens": LENGTH,
        "--resamples": 20,
    }
    given = [str(word) for pair in options.items() for word in pair]
    return ["evaluate", *given, "--no-meteor", *map(str, more)]


def test_the_command_prints_the_record_and_goes_by_source_and_limit(
    weights: Weights,
    data: Path,
    examples: list[Example],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = command(weights, data, tmp_path, "--source", "north", "--limit", 3)
    code = cli.main([*asked, "--variant", "base,adapter", "--protocol", "standard", "--json"])
    assert code == 0
    printed = json.loads(capsys.readouterr().out)
    [kept] = records.find("evaluation", [tmp_path / "records"])
    assert printed == kept.record.model_dump(mode="json")
    assert printed["data"]["items"] == 3 and printed["data"]["name"] == data.name
    assert printed["protocol"]["sources"] == ["north"]
    assert printed["protocol"]["limit"] == 3
    assert not any(key.startswith("reported/") for key in printed["numbers"])
    north = [example for example in examples if example.source == "north"]
    said = rows(kept.file("predictions/adapter"))
    assert [row["image"] for row in said] == [example.name for example in choose(north, 3)]


def test_unreadable_photos_are_named_and_left_out_of_the_scores(
    weights: Weights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "data", 5)
    (data / "resized" / "1.png").write_text("no photo")
    (data / "resized" / "3.png").unlink()
    for _ in range(2):  # the second time there is nothing left to caption
        code = cli.main([*command(weights, data, tmp_path, "--variant", "base"), "--json"])
        output, errors = capsys.readouterr()
        assert code == 1
        assert json.loads(output)["data"]["items"] == 3
        assert json.loads(output)["numbers"]["standard/all/images"] == 3
        assert json.loads(output)["protocol"]["unreadable"] == 2
        assert "1.png is left out: " in errors and "3.png is left out: " in errors
        assert "2 photos could not be opened" in errors
    for name in ("0", "2", "4"):
        (data / "resized" / f"{name}.png").unlink()
    assert cli.main(command(weights, data, tmp_path, "--variant", "base")) == 2
    assert "nothing to score" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--variant", "base,everything"], "everything"),
        (["--split", "nowhere"], "no row in the split 'nowhere'"),
        (["--temperature", "1"], "--seed"),
        (["--limit", "0"], "--limit"),
        (["--batch-size", "many"], "--batch-size"),
        (["--data", "/no/such/folder"], "/no/such/folder"),
        (["--adapter", "/no/adapter"], "/no/adapter"),
        (["--out", "/proc/none"], "/proc/none"),
    ],
)
def test_what_cannot_be_evaluated_is_said_and_exits_with_2(
    more: list[str],
    named: str,
    weights: Weights,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        code = cli.main(command(weights, data, tmp_path, *more))
    except SystemExit as stop:
        code = stop.code
    output, errors = capsys.readouterr()
    assert (code, output) == (2, "")
    assert "Traceback" not in errors and named in errors.strip().splitlines()[-1]


def test_variants_without_weights_are_refused_if_named_and_else_left_out(
    weights: Weights, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["evaluate", "--model", weights.model, "--data", data, "--records", tmp_path / "r"]
    options = [*map(str, options), "--no-meteor", "--max-new-tokens", "2", "--device", "cpu"]
    assert cli.main([*options, "--variant", "base,qvla"]) == 2
    assert "QVLA is not available: It has no adapter" in capsys.readouterr().err
    assert cli.main([*options, "--json", "--resamples", "5"]) == 0
    output, errors = capsys.readouterr()
    assert json.loads(output)["variants"] == ["base"]
    assert "Adapter is left out" in errors and "QVLA is left out" in errors


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_where_it_was(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", 12)
    model = build_tiny(tmp_path / "model")
    options = {"--model": model, "--data": data, "--variant": "base", "--batch-size": 2}
    options |= {"--records": tmp_path / "records", "--max-new-tokens": 40, "--device": "cpu"}
    options |= {"--protocol": "reported", "--resamples": 5}
    asked = [str(word) for pair in options.items() for word in pair]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("QVLA_")},
        "QVLA_PROGRESS": "json",
    }
    gate = Gate(tmp_path / "gate", "open", "base.jsonl", mode="a", passes=2)
    environment |= gate.variables

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "qvla", "evaluate", *asked, "--no-meteor", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )

    gate.close()
    process = start()
    gate.until_somebody_waits()  # with the captions of the third batch, before they are kept
    gate.open()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    [log] = tmp_path.glob("evaluations/*/base.jsonl")
    before = log.read_bytes()
    had = before.count(b"\n")
    assert had == 4

    process = start()
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert log.read_bytes().startswith(before)
    after = rows(log)
    assert len(after) == len({row["image"] for row in after}) == 12
    assert json.loads(output)["protocol"]["captioned_now"] == {"base": 12 - had}
    told = [json.loads(line) for line in errors.splitlines() if line.startswith('{"progress"')]
    assert told[0] == {"progress": had, "total": 12, "what": "Captioning photos"}

    settings = load_settings(model=str(model), device="cpu")
    examples = read_examples(data, splits=["val"])
    whole = predict(
        settings,
        examples,
        ["base"],
        out=tmp_path / "whole",
        decoding=Decoding(max_new_tokens=40),
        batch_size=2,
    )
    assert whole.made == {"base": 12}
    assert rows(whole.file("base")) == after
    assert whole.folder.name == log.parent.name
