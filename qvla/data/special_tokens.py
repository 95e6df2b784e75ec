"""Texts that a family's tokeniser takes for more than text, such as `<eos>` in a caption.

They cannot be escaped: a tokeniser told to split its special tokens splits those of the layout as
well, and a caption in pieces would teach the model to say the pieces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

TOKEN = re.compile(
    r"<(?:image|bos|eos|/?s|pad|unk|mask|loc\d{4}|seg\d{3}|start_of_turn|end_of_turn|unused\d+)>"
)


def special_tokens(texts: Iterable[str]) -> list[str]:
    """The special tokens in these texts, each once, in order."""
    return list(dict.fromkeys(token for text in texts for token in TOKEN.findall(text)))
