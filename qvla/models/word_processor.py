"""The embedded model's processor: a word vocabulary in an ordinary PaliGemma processor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PaliGemmaProcessor, PreTrainedTokenizerFast, SiglipImageProcessor

SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>")
IMAGE_TOKEN = "<image>"
PUNCTUATION = Regex(r"""[\n.,;:!?()"]""")


def split_words(text: str) -> list[str]:
    """The words of a text as the tokeniser sees them, before it looks any of them up."""
    normal = _normalizer().normalize_str(text)
    return [word for word, _ in _pre_tokenizer().pre_tokenize_str(normal)]


def words_of(texts: Iterable[str], *, at_least: int) -> list[str]:
    """Words that occur often enough, the most frequent first, ties in alphabetical order."""
    counts = Counter(word for text in texts for word in split_words(text))
    frequent = [word for word, count in counts.items() if count >= at_least]
    return sorted(frequent, key=lambda word: (-counts[word], word))


def build_processor(
    words: Iterable[str], *, image_size: int, image_tokens: int
) -> PaliGemmaProcessor:
    """A PaliGemma processor over these words; `image_tokens` is the length of one image."""
    entries = dict.fromkeys((*SPECIAL_TOKENS, IMAGE_TOKEN, "\n", *words))
    vocabulary = {word: index for index, word in enumerate(entries)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = _pre_tokenizer()
    special = {name.strip("<>") + "_token": name for name in SPECIAL_TOKENS}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **special,
        extra_special_tokens={"image_token": AddedToken(IMAGE_TOKEN, special=True)},
        model_max_length=512,
    )
    images = SiglipImageProcessor(size={"height": image_size, "width": image_size})
    images.image_seq_length = image_tokens
    return PaliGemmaProcessor(image_processor=images, tokenizer=fast)


def _normalizer() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(" +"), "removed"),
            pre_tokenizers.Split(PUNCTUATION, "isolated"),
        ]
    )
