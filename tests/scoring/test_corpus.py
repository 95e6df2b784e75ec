"""Corpus scores against pycocoevalcap, against the formulas, and what is refused."""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from qvla.data.examples import read_examples
from qvla.scoring import METRICS, ScoringError, corpus_scores, score_corpus
from tests.support.made_captions import CANDIDATES, REFERENCES

TOKENS = {  # written by hand
    "quay": ["two ferries lie at a long quay", "a quay with two white ferries", "ferries"],
    "farm": ["round green fields on dry ground", "circles of crops in the desert"],
    "park": ["a small park with a pond and paths", "there 's a pond in the park"],
}
SAID = {
    "quay": ["two ferries lie at quay"],
    "farm": ["many houses in rows"],
    "park": ["a pond in a small park"],
}


def cider_d(said: Sequence[str], truth: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of equation 2 and section "CIDEr-D" of Vedantam et al. 2015, written for this test.

    said and truth are tokenised; the documents are the rows of truth. As in the authors' code the
    length is the number of bigrams.
    """

    def ngrams(text: str, n: int) -> Counter[tuple[str, ...]]:
        words = text.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    scores = []
    for candidate, references in zip(said, truth, strict=True):
        total = 0.0
        for n in range(1, 5):
            seen = Counter(
                gram for row in truth for gram in set().union(*(ngrams(text, n) for text in row))
            )

            def weigh(
                text: str, n: int = n, seen: Mapping[tuple[str, ...], int] = seen
            ) -> dict[tuple[str, ...], float]:
                return {
                    gram: count * math.log(len(truth) / max(1, seen[gram]))
                    for gram, count in ngrams(text, n).items()
                }

            mine = weigh(candidate)
            for reference in references:
                theirs = weigh(reference)
                lengths = math.hypot(*mine.values()) * math.hypot(*theirs.values())
                overlap = sum(
                    min(weight, theirs[gram]) * theirs[gram]
                    for gram, weight in mine.items()
                    if gram in theirs
                )
                gap = len(candidate.split()) - len(reference.split())
                penalty = math.exp(-(gap**2) / (2 * 6.0**2))
                total += penalty * overlap / lengths / len(references) / 4 if lengths else 0.0
        scores.append(10 * total)
    return scores


def test_equals_pycocoevalcap_on_tokens_written_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    scores = score_corpus(REFERENCES, CANDIDATES)
    assert capsys.readouterr().out == ""
    assert list(scores.values) == list(METRICS)

    cider, ciders = Cider().compute_score(TOKENS, SAID)
    bleu, bleus = Bleu(4).compute_score(TOKENS, SAID, verbose=0)
    rouge, rouges = Rouge().compute_score(TOKENS, SAID)
    assert scores.values["CIDEr"] == pytest.approx(cider, abs=1e-12)
    assert scores.values["ROUGE-L"] == pytest.approx(rouge, abs=1e-12)
    for order in range(1, 5):
        assert scores.values[f"BLEU-{order}"] == pytest.approx(bleu[order - 1], abs=1e-12)
        assert list(scores.per_image[f"BLEU-{order}"].values()) == pytest.approx(bleus[order - 1])
    assert scores.per_image["CIDEr"] == pytest.approx(dict(zip(TOKENS, ciders, strict=True)))
    assert scores.per_image["ROUGE-L"] == pytest.approx(dict(zip(TOKENS, rouges, strict=True)))


def test_cider_is_cider_d_of_the_paper() -> None:
    expected = cider_d([SAID[key][0] for key in TOKENS], list(TOKENS.values()))
    scores = score_corpus(REFERENCES, CANDIDATES, ["CIDEr"])
    assert list(scores.per_image["CIDEr"].values()) == pytest.approx(expected, abs=1e-9)
    assert scores.per_image["CIDEr"]["farm"] < 0.5 < scores.per_image["CIDEr"]["quay"]


def test_bleu_and_rouge_of_known_pairs() -> None:
    scores = corpus_scores({1: ["a b c d e"]}, {1: "a b c d e"})
    for metric in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"):
        assert scores[metric] == pytest.approx(1.0, abs=1e-6)
    # Half of four words are right and the closest reference is as long: no brevity penalty.
    assert corpus_scores({1: ["a b c d", "a b"]}, {1: "a b x y"}, ["BLEU-1"])[
        "BLEU-1"
    ] == pytest.approx(0.5, abs=1e-6)
    # Two words of four: precision 1, brevity penalty e^(1 - 4/2).
    assert corpus_scores({1: ["a b c d"]}, {1: "a b"}, ["BLEU-1"])["BLEU-1"] == pytest.approx(
        math.exp(-1), abs=1e-6
    )


def test_only_the_metrics_asked_for() -> None:
    scores = score_corpus(REFERENCES, CANDIDATES, ["ROUGE-L", "BLEU-2"])
    assert list(scores.values) == ["ROUGE-L", "BLEU-2"]
    assert set(scores.per_image) == {"ROUGE-L", "BLEU-2"}
    assert scores.values["BLEU-2"] == pytest.approx(
        corpus_scores(REFERENCES, CANDIDATES)["BLEU-2"], abs=1e-12
    )


def test_an_empty_caption_scores_nothing_and_leaves_the_others() -> None:
    scores = score_corpus(REFERENCES, {**CANDIDATES, "farm": " . "})
    for metric in METRICS:
        assert scores.per_image[metric]["farm"] == pytest.approx(0.0, abs=1e-6)
    assert scores.per_image["CIDEr"]["quay"] > 0


@pytest.mark.parametrize(
    ("references", "candidates", "metrics", "said"),
    [
        ({}, {}, METRICS, "nothing to score"),
        ({"a": ["x"], "b": ["y"]}, {"a": "x"}, METRICS, "1 of 2 images with references.*: b"),
        ({"a": ["x"]}, {"a": "x", "c": "z"}, METRICS, "1 of 2 captions.*no references: c"),
        ({str(n): ["x"] for n in range(9)}, {}, METRICS, "9 of 9.*: 0, 1, 2 and 6 more"),
        ({"a": []}, {"a": "x"}, METRICS, "no reference at all: a"),
        ({"a": ["..."]}, {"a": "x"}, METRICS, "no word"),
        ({"a": "one text"}, {"a": "x"}, METRICS, "lists of captions"),
        ({"a": ["x"]}, {"a": ["x"]}, METRICS, "one caption"),
        ({"a": ["x"]}, {"a": "x"}, ["SPICE"], "no metric SPICE"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_a_sentence(
    references: dict, candidates: dict, metrics: Sequence[str], said: str
) -> None:
    with pytest.raises(ScoringError, match=said) as refusal:
        corpus_scores(references, candidates, metrics)
    assert "\n" not in str(refusal.value)


@pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java here")
@pytest.mark.skipif(
    not os.environ.get("QVLA_DATA"), reason="QVLA_DATA names no folder in the RISC layout"
)
def test_equals_pycocoevalcap_with_java_on_a_data_set() -> None:
    """The first caption of every third photo of val against its others."""
    val = read_examples(os.environ["QVLA_DATA"], splits=["val"])[::3]
    examples = [example for example in val if len(example.references) > 1]
    candidates = {example.name: example.references[0] for example in examples}
    references = {example.name: list(example.references[1:]) for example in examples}

    java = PTBTokenizer().tokenize
    truth = java({key: [{"caption": text} for text in texts] for key, texts in references.items()})
    said = java({key: [{"caption": text}] for key, text in candidates.items()})
    bleu, _ = Bleu(4).compute_score(truth, said, verbose=0)
    expected = [
        Cider().compute_score(truth, said)[0],
        *bleu,
        Rouge().compute_score(truth, said)[0],
    ]
    ours = corpus_scores(references, candidates)
    assert [ours[metric] for metric in METRICS] == pytest.approx(expected, abs=1e-9)
