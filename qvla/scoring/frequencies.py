"""Makes the table of document frequencies that sentence scores use.

    python -m qvla.scoring.frequencies --data DIR --out assets/document_frequencies.npz

A document is one train photo's references together. Only n-grams (1 to 4 PTB tokens) in two or more
documents are kept, because CIDEr gives all rarer ones the same weight; and only as 64-bit hashes,
so that the table holds no text of the captions.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from pycocoevalcap.cider.cider_scorer import precook

from qvla.data.examples import read_examples
from qvla.errors import QvlaError
from qvla.scoring.checks import ScoringError
from qvla.scoring.ptb import tokenize
from qvla.scoring.sentence import hash_ngram

SOURCES = ("RSICD", "UCM")
SPLIT = "train"


def count_documents(documents: Sequence[Sequence[str]]) -> Counter[tuple[str, ...]]:
    """In how many documents (lists of raw references) each n-gram of 1 to 4 tokens occurs."""
    return count_lines(tokenize(references) for references in documents)


def count_lines(documents: Iterable[Sequence[str]]) -> Counter[tuple[str, ...]]:
    """The same of documents whose references are tokens in one line already."""
    counts: Counter[tuple[str, ...]] = Counter()
    for lines in documents:
        counts.update({ngram for line in lines for ngram in precook(line)})
    return counts


def write_table(documents: Sequence[Sequence[str]], out: Path) -> int:
    """Writes the table of these documents; returns the number of n-grams in it.

    Raises ScoringError when there is no document.
    """
    if not documents:
        raise ScoringError("There are no references to count: no photo of this data fits.")
    kept = sorted(
        (hash_ngram(ngram), count)
        for ngram, count in count_documents(documents).items()
        if count >= 2
    )
    unfinished = out.with_name(out.name + ".part")
    out.parent.mkdir(parents=True, exist_ok=True)
    with unfinished.open("wb") as file:
        np.savez_compressed(
            file,
            hashes=np.array([key for key, _ in kept], dtype=np.uint64),
            counts=np.array([count for _, count in kept], dtype=np.uint32),
            documents=np.array(len(documents), dtype=np.uint32),
        )
    os.replace(unfinished, out)
    return len(kept)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder in the RISC layout")
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    options = parser.parse_args(arguments)
    try:
        examples = read_examples(options.data, splits=[SPLIT], sources=SOURCES)
        documents = [example.references for example in examples if example.references]
        ngrams = write_table(documents, options.out)
    except QvlaError as error:
        parser.error(str(error))
    print(f"{options.out}: {ngrams:,} n-grams of {len(documents):,} photos' references")


if __name__ == "__main__":
    main()
