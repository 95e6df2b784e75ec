"""PTB tokens of captions, by the Java tokeniser where there is Java and by ours where not.

Both give the same tokens for ordinary captions (see `qvla.scoring.ptb`); a result says whose they
are.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from pycocoevalcap.tokenizer import ptbtokenizer

from qvla.scoring import java, ptb
from qvla.scoring.checks import ScoringError
from qvla.scoring.java import JavaError
from qvla.scoring.remembered import Remembered

AUTO, JAVA, PYTHON = TOKENIZERS = ("auto", "java", "python")
SECONDS, SECONDS_EACH = 60, 0.01  # until Java is given up; it takes 20,000 captions a second
MOST = 65_536  # captions whose tokens are kept, about 20 MB

LINE_ENDS = re.compile("[\n\r\v\f\x1c-\x1e\u2028\u2029]")

log = logging.getLogger(__name__)


def tokenize(captions: Sequence[str], tokenizer: str = AUTO) -> tuple[list[str], str]:
    """Tokens of each caption in one line, lower case, no punctuation; and "java" or "python".

    Raises ScoringError when Java is asked for and absent or failing; "auto" then takes Python.
    """
    if tokenizer not in TOKENIZERS:
        raise ScoringError(
            f"There is no tokeniser {tokenizer}; the tokenisers are {', '.join(TOKENIZERS)}."
        )
    if tokenizer == JAVA or (tokenizer == AUTO and java.available()):
        try:
            return _by_java(captions), JAVA
        except JavaError as error:
            if tokenizer == JAVA:
                raise ScoringError(
                    f"Captions cannot be tokenised with Java ({error}); use the tokeniser "
                    f"{PYTHON} or {AUTO}."
                ) from error
            log.warning("Captions are tokenised with Python, for %s.", error)
    return _by_python(captions), PYTHON


def _run_java(captions: list[str]) -> list[str]:
    lines = java.run(
        [
            *("-cp", ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR),
            *("edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"),
            *("-encoding", "UTF-8"),
        ],
        folder=Path(ptbtokenizer.__file__).parent,
        lines=[LINE_ENDS.sub(" ", caption) for caption in captions],
        seconds=SECONDS + SECONDS_EACH * len(captions),
    )
    if len(lines) != len(captions):
        raise JavaError(f"Java gave {len(lines)} lines for {len(captions)} captions")
    return [
        " ".join(word for word in line.rstrip().split(" ") if word not in ptbtokenizer.PUNCTUATIONS)
        for line in lines
    ]


_by_java = Remembered(_run_java, MOST)
_by_python = Remembered(ptb.tokenize, MOST)
