"""A tokeniser of whole words, for models whose vocabulary is made here: the embedded one, and those
with random weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast, ProcessorMixin

from qvla.models.families.family import Family

UNKNOWN = "<unk>"
SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", UNKNOWN)
PUNCTUATION = Regex(r"""[\n.,;:!?()"]""")


def split_words(text: str) -> list[str]:
    """The words of a text as the tokeniser sees them, before it looks any of them up."""
    return cut_words(_normalizer().normalize_str(text))


def cut_words(text: str) -> list[str]:
    """The words of a text in the letters that it has."""
    return [word for word, _ in _pre_tokenizer().pre_tokenize_str(text)]


def words_of(texts: Iterable[str], *, at_least: int) -> list[str]:
    """Words that occur often enough, the most frequent first, ties in alphabetical order."""
    counts = Counter(word for text in texts for word in split_words(text))
    frequent = [word for word, count in counts.items() if count >= at_least]
    return sorted(frequent, key=lambda word: (-counts[word], word))


def word_processor(
    family: Family, words: Iterable[str], *, image_size: int, image_tokens: int
) -> ProcessorMixin:
    """A family's processor over these words; `image_tokens` is the length of one image."""
    photo = () if family.image_token is None else (family.image_token,)
    entries = dict.fromkeys((*SPECIAL_TOKENS, *photo, "\n", *words))
    tokenizer = word_tokenizer(
        {word: index for index, word in enumerate(entries)},
        {name.strip("<>") + "_token": name for name in SPECIAL_TOKENS},
        image_token=family.image_token,
        longest=512,
        lower_case=True,
    )
    return family.make_processor(tokenizer, image_size=image_size, image_tokens=image_tokens)


def word_tokenizer(
    vocabulary: Mapping[str, int],
    special: Mapping[str, str],
    *,
    image_token: str | None,
    longest: int,
    lower_case: bool,
) -> PreTrainedTokenizerFast:
    """A tokeniser over words and their numbers, UNKNOWN among them.

    `special` are Transformers' names of the special tokens (`pad_token`, …) with the words that
    they are; `longest` is the length in tokens that the model takes.
    """
    tokenizer = Tokenizer(models.WordLevel(dict(vocabulary), unk_token=UNKNOWN))
    if lower_case:
        tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = _pre_tokenizer()
    extra = {}
    if image_token is not None:
        extra = {"image_token": AddedToken(image_token, special=True)}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **special,
        extra_special_tokens=extra,
        model_max_length=longest,
    )


@cache
def _normalizer() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])


@cache
def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(" +"), "removed"),
            pre_tokenizers.Split(PUNCTUATION, "isolated"),
        ]
    )
