"""Both protocols against pycocoevalcap on its own, what they draw, and what they refuse."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from qvla.data.examples import read_examples
from qvla.scoring import METRICS, ScoringError, compare, forget, score
from qvla.scoring.bootstrap import draws, resampled
from qvla.scoring.meteor import measure_meteor
from qvla.scoring.protocols import drawn_reference
from tests.support.made_captions import make

MADE = make(60)
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java here")


def alone(
    truth: Mapping[str, Sequence[str]], said: Mapping[str, Sequence[str]]
) -> dict[str, tuple[float, dict[str, float]]]:
    """pycocoevalcap's scores of all photos and of each."""
    cider, rouge = Cider().compute_score(truth, said), Rouge().compute_score(truth, said)
    totals, photos = Bleu(4).compute_score(truth, said, verbose=0)
    pairs = {"CIDEr": cider, "ROUGE-L": rouge}
    pairs |= {f"BLEU-{n + 1}": (totals[n], photos[n]) for n in range(4)}
    return {
        name: (all_, dict(zip(truth, each, strict=True))) for name, (all_, each) in pairs.items()
    }


def drawn(references: Mapping[str, Sequence[str]], seed: int) -> dict[str, list[str]]:
    return {image: [drawn_reference(image, texts, seed)] for image, texts in references.items()}


@pytest.mark.parametrize("tokenizer", ["python", pytest.param("java", marks=needs_java)])
def test_standard_equals_pycocoevalcap(tokenizer: str) -> None:
    scored = score(MADE.references, MADE.captions, "standard", metrics=METRICS, tokenizer=tokenizer)
    assert (scored.protocol, scored.images, scored.tokenizer) == ("standard", 60, tokenizer)
    assert scored.seed is None
    assert list(scored.metrics) == list(METRICS)
    for metric, (value, photos) in alone(MADE.reference_tokens, MADE.caption_tokens).items():
        assert scored.metrics[metric].value == pytest.approx(value, abs=1e-9), metric
        assert scored.per_image[metric] == pytest.approx(photos, abs=1e-9), metric


def test_reported_equals_pycocoevalcap_on_raw_strings() -> None:
    scored = score(MADE.references, MADE.captions, "reported", seed=5, metrics=METRICS)
    assert (scored.protocol, scored.tokenizer, scored.seed) == ("reported", "none", 5)
    said = {image: [text] for image, text in MADE.captions.items()}
    for metric, (value, photos) in alone(drawn(MADE.references, 5), said).items():
        assert scored.metrics[metric].value == pytest.approx(value, abs=1e-9), metric
        assert scored.per_image[metric] == pytest.approx(photos, abs=1e-9), metric


def test_the_drawn_reference_hangs_on_seed_and_image_alone() -> None:
    names = list(MADE.references)
    some, all_ = (
        score(
            {name: MADE.references[name] for name in part},
            {name: MADE.captions[name] for name in part},
            "reported",
            metrics=["ROUGE-L"],
            seed=1,
        ).per_image["ROUGE-L"]
        for part in (names[7:31], names[::-1])
    )
    assert some == {name: all_[name] for name in names[7:31]}

    texts = [str(number) for number in range(5)]
    picks = [drawn_reference(f"{n}.jpg", texts, 1) for n in range(5000)]
    assert all(900 < picks.count(text) < 1100 for text in texts)  # 1000 expected, 28 its spread
    other = [drawn_reference(f"{n}.jpg", texts, 2) for n in range(5000)]
    assert 900 < sum(a == b for a, b in zip(picks, other, strict=True)) < 1100


def test_the_order_of_photos_changes_nothing() -> None:
    backwards = dict(reversed(MADE.references.items()))
    options = {"metrics": METRICS, "tokenizer": "python", "resamples": 50}
    assert score(backwards, MADE.captions, **options) == score(
        MADE.references, MADE.captions, **options
    )


def test_scoring_again_with_other_captions_is_not_what_was_remembered() -> None:
    other = make(60, seed=1)
    first = score(MADE.references, MADE.captions, metrics=METRICS, tokenizer="python")
    swapped = {image: other.captions[image] for image in MADE.captions}
    second = score(MADE.references, swapped, metrics=METRICS, tokenizer="python")
    for metric, (value, _) in alone(MADE.reference_tokens, other.caption_tokens).items():
        assert second.metrics[metric].value == pytest.approx(value, abs=1e-9)
        assert second.metrics[metric].value < first.metrics[metric].value


@pytest.mark.slow
@needs_java
def test_meteor_equals_pycocoevalcap_and_so_do_its_resamples() -> None:
    references = MADE.references | {"same": ["the quay"], "quiet": ["two boats", "a quay"]}
    captions = MADE.captions | {"same": "the quay", "quiet": ""}
    tokens = MADE.reference_tokens | {"same": ["the quay"], "quiet": ["two boats", "a quay"]}
    said = MADE.caption_tokens | {"same": ["the quay"], "quiet": [""]}
    raw = {image: [text] for image, text in captions.items()}
    one = drawn(references, 3)
    answers = [lines[0] for side in (said, raw) for lines in side.values()]
    measure_meteor([*tokens.values(), *one.values()], answers)  # the program is started once
    standard = score(references, captions, metrics=["METEOR"], tokenizer="python", resamples=20)
    reported = score(references, captions, "reported", seed=3, metrics=["METEOR"], resamples=20)

    program = Meteor()
    for scored, truth, answer in ((standard, tokens, said), (reported, one, raw)):
        value, photos = program.compute_score(truth, answer)
        assert scored.metrics["METEOR"].value == pytest.approx(value, abs=1e-9)
        assert scored.per_image["METEOR"] == pytest.approx(
            dict(zip(truth, photos, strict=True)), abs=1e-9
        )
    assert standard.per_image["METEOR"]["same"] == 1
    assert standard.per_image["METEOR"]["quiet"] == 0

    images = sorted(references)
    values = resampled(standard._parts, 20, 0)["METEOR"]
    for value, times in zip(values, next(draws(len(images), 20, 0)), strict=True):
        names = [name for name, n in zip(images, times, strict=True) for _ in range(int(n))]
        again, _ = program.compute_score(
            {number: tokens[name] for number, name in enumerate(names)},
            {number: said[name] for number, name in enumerate(names)},
        )
        assert value == pytest.approx(again, abs=1e-9)


def test_without_java_meteor_is_absent_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    forget()
    scored = score(MADE.references, MADE.captions)
    assert scored.tokenizer == "python"
    assert list(scored.metrics) == list(METRICS)
    assert scored.notes == ("METEOR is absent: there is no Java here.",)
    with pytest.raises(ScoringError, match=r"METEOR cannot be computed .*no Java"):
        score(MADE.references, MADE.captions, metrics=["CIDEr", "METEOR"])
    with pytest.raises(ScoringError, match=r"cannot be tokenised with Java .*no Java"):
        score(MADE.references, MADE.captions, tokenizer="java")


def test_a_result_cannot_be_changed() -> None:
    scored = score({"a": ["x y"]}, {"a": "x"}, metrics=["BLEU-1"], tokenizer="python")
    with pytest.raises(FrozenInstanceError):
        scored.images = 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"protocol": "mixed"}, "no protocol mixed; it is standard or reported"),
        ({"metrics": ["SPICE"]}, "no metric SPICE"),
        ({"metrics": []}, "at least one metric"),
        ({"tokenizer": "moses"}, "no tokeniser moses"),
        ({"resamples": 0}, "at least 1, not 0"),
        ({"references": {"a": ["x"], "b": ["y"]}}, "no caption to score: b"),
        ({"candidates": {"a": "x", "c": "y"}}, "no references: c"),
        ({"references": {"a": [" "]}, "protocol": "reported"}, "no word"),
        ({"references": {"a": ["."]}}, "no word"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_a_sentence(options: dict, said: str) -> None:
    given = {"references": {"a": ["x"]}, "candidates": {"a": "x"}, "metrics": ["CIDEr"]}
    with pytest.raises(ScoringError, match=said) as refusal:
        score(**(given | options))
    assert "\n" not in str(refusal.value)


def test_unlike_results_are_not_compared() -> None:
    def scored(**options: object) -> object:
        given = {
            "references": MADE.references,
            "candidates": MADE.captions,
            "metrics": ["BLEU-1"],
            "resamples": 1,
            "tokenizer": "python",
        }
        return score(**(given | options))

    few = list(MADE.references)[:50]
    fewer = {
        "references": {name: MADE.references[name] for name in few},
        "candidates": {name: MADE.captions[name] for name in few},
    }
    other = MADE.references | {few[0]: ["Another quay"]}
    reported = scored(protocol="reported")
    for first, second, said in (
        (scored(), reported, "the standard and the reported protocol"),
        (reported, scored(protocol="reported", seed=1), "seeds 0 and 1"),
        (scored(), scored(**fewer), "10 images were scored on one side only"),
        (scored(), scored(references=other), "different references"),
        (scored(), scored(metrics=["CIDEr"]), "no metric in common"),
    ):
        with pytest.raises(ScoringError, match=said):
            compare(first, second)
    with pytest.raises(ScoringError, match="at least 1"):
        compare(reported, reported, resamples=0)


@pytest.mark.skipif(
    not os.environ.get("QVLA_DATA"), reason="QVLA_DATA names no folder in the RISC layout"
)
@pytest.mark.parametrize("tokenizer", ["python", pytest.param("java", marks=needs_java)])
def test_val_captions_score_as_by_pycocoevalcap(tokenizer: str) -> None:
    """The second caption of every val photo that has several, against its others."""
    val = read_examples(os.environ["QVLA_DATA"], splits=["val"])
    examples = [example for example in val if len(example.references) > 1]
    captions = {example.name: example.references[1] for example in examples}
    references = {
        example.name: [*example.references[:1], *example.references[2:]] for example in examples
    }
    assert len(captions) > 1000
    if shutil.which("java"):
        java = PTBTokenizer().tokenize
        truth = java(
            {name: [{"caption": text} for text in texts] for name, texts in references.items()}
        )
        said = java({name: [{"caption": text}] for name, text in captions.items()})
        scored = score(references, captions, metrics=METRICS, tokenizer=tokenizer, resamples=1)
        for metric, (value, photos) in alone(truth, said).items():
            assert scored.metrics[metric].value == pytest.approx(value, abs=1e-9)
            assert scored.per_image[metric] == pytest.approx(photos, abs=1e-9)

    scored = score(references, captions, "reported", seed=2, metrics=METRICS, resamples=1)
    raw = {name: [text] for name, text in captions.items()}
    for metric, (value, photos) in alone(drawn(references, 2), raw).items():
        assert scored.metrics[metric].value == pytest.approx(value, abs=1e-9)
        assert scored.per_image[metric] == pytest.approx(photos, abs=1e-9)
