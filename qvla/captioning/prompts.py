"""Text to tokens and back, the only place that does it.

PaliGemma's layout is: image tokens, `<bos>`, prefix, newline, and in training the suffix and
`<eos>` (big_vision, PaliGemma README). Spaces around the special tokens break the model, so
nothing else in this project builds a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qvla.errors import QvlaError
from qvla.settings import CAPTION_PREFIX

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from transformers import PaliGemmaProcessor
    from transformers.feature_extraction_utils import BatchFeature

__all__ = ["CAPTION_PREFIX", "IGNORED", "decode", "encode_images", "encode_text"]

IGNORED = -100  # the label that PyTorch's cross-entropy leaves out


def encode_text(
    processor: PaliGemmaProcessor,
    prefixes: Sequence[str],
    suffixes: Sequence[str] | None = None,
) -> BatchFeature:
    """Tokens for one image a row: `input_ids`, `attention_mask`, `token_type_ids`, each (B, T).

    Without suffixes the rows are padded on the left, ready for `generate`. With suffixes they are
    padded on the right and `labels` (B, T) holds the suffix and `<eos>`, IGNORED elsewhere.
    `token_type_ids` is 0 on the prefix, which attends both ways, and 1 on the suffix. Raises
    QvlaError for a text that holds one of the special tokens, which would change the layout.
    """
    from transformers.feature_extraction_utils import BatchFeature

    tokenizer = processor.tokenizer
    for text in (*prefixes, *(suffixes or ())):
        for token in (processor.image_token, tokenizer.bos_token, tokenizer.eos_token):
            if token in text:
                raise QvlaError(f"A prompt or caption may not hold {token}: take it out.")
    images = processor.image_token * processor.image_seq_length
    prompts = [f"{images}{tokenizer.bos_token}{prefix}\n" for prefix in prefixes]
    answers = None if suffixes is None else [text + tokenizer.eos_token for text in suffixes]
    batch = tokenizer(
        prompts,
        text_pair=answers,
        add_special_tokens=False,
        padding=True,
        padding_side="left" if answers is None else "right",
        return_attention_mask=True,
        return_token_type_ids=True,
        return_tensors="pt",
    )
    if answers is not None:
        batch["labels"] = batch["input_ids"].masked_fill(batch["token_type_ids"] == 0, IGNORED)
    return BatchFeature(dict(batch))


def encode_images(processor: PaliGemmaProcessor, images: Sequence[Image.Image]) -> torch.Tensor:
    """RGB images of any size to `pixel_values` (B, 3, S, S) float32, S from the checkpoint."""
    return processor.image_processor(list(images), return_tensors="pt")["pixel_values"]


def decode(processor: PaliGemmaProcessor, tokens: torch.Tensor) -> list[str]:
    """Generated tokens (B, T) to texts, without special tokens and outer white space."""
    texts = processor.tokenizer.batch_decode(
        tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return [text.strip() for text in texts]
