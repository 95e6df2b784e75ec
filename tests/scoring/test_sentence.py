"""Sentence scores against pycocoevalcap and a direct formula; shared words; the frequency table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from qvla.scoring import ScoringError, sentence_scores, shared_words, tokenize
from qvla.scoring.frequencies import main, write_table
from qvla.scoring.sentence import TABLE, DocumentFrequencies, document_frequencies, hash_ngram
from tests.support.made_captions import CANDIDATES, REFERENCES
from tests.support.ptb_tokens import EXPECTED


def test_equals_pycocoevalcap_given_the_same_corpus(tmp_path: Path) -> None:
    """With the table of a corpus, each sentence scores what the whole corpus gives it."""
    write_table(list(REFERENCES.values()), tmp_path / "table.npz")
    table = DocumentFrequencies.read(tmp_path / "table.npz")
    truth = {key: tokenize(texts) for key, texts in REFERENCES.items()}
    said = {key: tokenize([CANDIDATES[key]]) for key in REFERENCES}
    _, ciders = Cider().compute_score(truth, said)
    _, rouges = Rouge().compute_score(truth, said)
    assert max(ciders) > 1
    for key, cider, rouge in zip(REFERENCES, ciders, rouges, strict=True):
        scores = sentence_scores(CANDIDATES[key], REFERENCES[key], table)
        assert scores.cider_d == pytest.approx(cider, abs=1e-9)
        assert scores.rouge_l == pytest.approx(rouge, abs=1e-9)


def test_the_table_of_the_project_ranks_captions() -> None:
    references = ["Many boats lie in a harbour.", "Boats are in the harbour near a beach."]
    same = sentence_scores("Many boats lie in a harbour.", references)
    near = sentence_scores("some boats are in a harbour", references)
    vague = sentence_scores("many buildings are in a residential area", references)
    assert same.cider_d > near.cider_d > vague.cider_d
    assert near.cider_d > 1 > vague.cider_d >= 0
    assert same.rouge_l == pytest.approx(1.0, abs=1e-6)
    assert same.rouge_l > near.rouge_l > vague.rouge_l > 0  # none shares four words in a row
    only = sentence_scores("Many boats lie in a harbour.", references[:1])
    assert only.cider_d == pytest.approx(10.0, abs=1e-9)


def test_the_table_of_the_project_holds_counts_of_photos() -> None:
    table = document_frequencies()
    assert table.documents == 10414
    assert table[("many",)] > table[("airport",)] > table[("viaduct",)] > 1
    assert table[("many",)] > table[("many", "buildings")] > 1
    assert table[("never", "written")] == 1
    assert TABLE.stat().st_size < 1_000_000
    with np.load(TABLE, allow_pickle=False) as arrays:
        assert {array: arrays[array].dtype.kind for array in arrays} == {
            "hashes": "u",
            "counts": "u",
            "documents": "u",
        }
        assert arrays["counts"].min() == 2
        assert arrays["counts"].max() <= 10414


def test_hashes_are_the_same_everywhere() -> None:
    # python -c "import hashlib; print(hashlib.blake2b(b'two boats', digest_size=8).hexdigest())"
    assert hash_ngram(("two", "boats")) == int.from_bytes(bytes.fromhex(HASH), "little")
    assert hash_ngram(("two", "boats")) != hash_ngram(("twoboats",))


HASH = "54b19c4a305c1a3b"


@pytest.mark.parametrize("caption", ["", "  ", ".", " , "])
def test_an_empty_caption_scores_nothing(caption: str) -> None:
    scores = sentence_scores(caption, ["a quay with boats"])
    assert scores.cider_d == 0.0
    assert scores.rouge_l == 0.0


@pytest.mark.parametrize("references", [[], [""], [".", " ", "--"], "one text"])
def test_references_without_a_word_are_refused(references: list[str]) -> None:
    with pytest.raises(ScoringError, match=r"^[^\n]*\.$"):
        sentence_scores("a quay", references)


def test_a_reference_without_a_word_is_passed_over() -> None:
    references = ["a quay with boats", "boats at the quay"]
    assert sentence_scores("boats", [*references, " . "]) == sentence_scores("boats", references)


@pytest.mark.parametrize("file", ["missing.npz", "text.npz", "other.npz"])
def test_a_bad_table_is_refused_in_a_sentence(tmp_path: Path, file: str) -> None:
    (tmp_path / "text.npz").write_text("not a table")
    np.savez(tmp_path / "other.npz", words=np.zeros(3))
    with pytest.raises(ScoringError, match=file):
        DocumentFrequencies.read(tmp_path / file)


def test_the_command_counts_photos_of_the_train_split(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text(
        "source,split,image,caption_1,caption_2\n"
        "RSICD,train,a.jpg,Two boats.,two boats\n"
        "UCM,train,b.jpg,two roads,\n"
        "RSICD,val,c.jpg,two roads,boats\n"
        "NWPU,train,d.jpg,two roads,boats\n"
    )
    out = tmp_path / "new" / "table.npz"
    main(["--data", str(tmp_path), "--out", str(out)])
    table = DocumentFrequencies.read(out)
    assert table.documents == 2
    assert table[("two",)] == 2
    assert table[("boats",)] == 1
    assert [path.name for path in out.parent.iterdir()] == ["table.npz"]


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--data", str(tmp_path / "none"), "--out", str(tmp_path / "table.npz")])
    assert "There is no data folder" in capsys.readouterr().err
    assert not (tmp_path / "table.npz").exists()


def test_shared_words() -> None:
    caption = "Two Boats, a pier's end and well-kept (white) sheds at 3 1/2 km."
    references = ["boats at the pier .", "a white, WELL-KEPT shed (3 1/2 km off)"]
    pieces = shared_words(caption, references)
    assert "".join(text for text, _ in pieces) == caption
    assert [text for text, shared in pieces if shared] == [
        "Boats",
        "pier",
        "well-kept",
        "white",
        "3 1/2",
        "km",
    ]


def test_function_words_and_marks_are_never_shared() -> None:
    text = "There are not any of the (& % !!) in it, and it isn't a #"
    assert not any(shared for _, shared in shared_words(text, [text]))


@pytest.mark.parametrize("caption", EXPECTED)
def test_pieces_are_the_caption(caption: str) -> None:
    pieces = shared_words(caption, [caption])
    assert "".join(text for text, _ in pieces) == caption
    assert all(text for text, _ in pieces)
    assert not any(shared for _, shared in shared_words(caption, []))
