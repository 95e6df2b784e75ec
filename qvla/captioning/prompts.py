"""Text to tokens and back, the only place that does it.

What a prompt looks like is its model family's matter (`qvla.models.families`). Spaces around the
special tokens break a model, so nothing else in this project builds a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qvla.data.questions import clean_question
from qvla.models.families import family_of_processor
from qvla.models.families.family import IGNORED
from qvla.settings import CAPTION_PREFIX, QUESTION_PREFIX

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from transformers import PreTrainedConfig, ProcessorMixin
    from transformers.feature_extraction_utils import BatchFeature

__all__ = [
    "CAPTION_PREFIX",
    "IGNORED",
    "as_seen",
    "decode",
    "encode_images",
    "encode_text",
    "is_question",
    "prompt_of",
    "task_of",
    "typed_prompt",
    "unknown_words",
]

# The languages of PaliGemma's tasks, those of Crossmodal-3600 (arXiv 2205.12522), and its tasks
# (arXiv 2407.07726, section 3.2): the first five go with a language.
LANGUAGES = (
    "ar|bn|cs|da|de|el|en|es|fa|fi|fil|fr|hi|hr|hu|id|it|iw|ja|ko|mi|nl|no|pl|pt|quz|ro|ru|sv|sw|"
    "te|th|tr|uk|vi|zh"
)
TASK = re.compile(rf"(cap|caption|describe|answer|question) ({LANGUAGES})\b|(detect|segment) |ocr$")


def prompt_of(question: str, prefix: str = CAPTION_PREFIX) -> str:
    """The prompt of a row: that of its question, or without one the prefix of the task."""
    return f"{QUESTION_PREFIX} {question}" if question else prefix


# What multi-task adapters call the tasks that prompts spell otherwise.
TASK_NAMES = {"cap": "caption", "describe": "caption", "answer": "vqa"}


def task_of(prompt: str) -> str:
    """The task that a prompt is for, by its first word: `caption` of `caption en`, `vqa` of
    `answer en …`, and else the word itself, as in `detect …`.
    """
    word = prompt.split(maxsplit=1)[0].lower() if prompt.strip() else ""
    return TASK_NAMES.get(word, word)


def is_question(prompt: str) -> bool:
    """Whether the prompt asks a question about a photo, as `prompt_of` writes one."""
    return task_of(prompt) == TASK_NAMES["answer"]


def typed_prompt(text: str) -> str:
    """The prompt of what somebody typed about a photo.

    A task in PaliGemma's own words (`caption en`, `answer en …`, `detect …`) stands as it is. No
    text, and one that begins with "caption" or "describe", asks for a caption; any other text is a
    question. Raises QvlaError for one that cannot be asked.
    """
    text = " ".join(text.split())
    if TASK.match(text):
        return text
    if not text or text.lower().startswith(("caption", "describe")):
        return CAPTION_PREFIX
    return prompt_of(clean_question(text))


def encode_text(
    processor: ProcessorMixin,
    prefixes: Sequence[str],
    suffixes: Sequence[str] | None = None,
) -> BatchFeature:
    """Tokens for one image a row: `input_ids`, `attention_mask`, each (B, T), and what else the
    family's model takes, such as PaliGemma's `token_type_ids`.

    Without suffixes the rows are padded on the left, ready for `generate`. With suffixes they are
    padded on the right and `labels` (B, T) holds the suffix and the end of text, IGNORED elsewhere.
    Raises QvlaError for a text that holds one of the special tokens, which would change the layout.
    """
    return family_of_processor(processor).encode(processor, prefixes, suffixes)


def encode_images(processor: ProcessorMixin, images: Sequence[Image.Image]) -> torch.Tensor:
    """RGB images of any size to `pixel_values` (B, 3, S, S) float32, S from the checkpoint, or to
    what else the family's model looks at.
    """
    return family_of_processor(processor).pixels(processor, images)


def as_seen(processor: ProcessorMixin, image: Image.Image) -> Image.Image:
    """What a model is given of an RGB image, as a picture: `encode_images` without the scaling of
    its values, so (S, S), or as large as the family's model looks at.
    """
    import torch
    from PIL import Image as images

    made: Any = processor.image_processor
    values = encode_images(processor, [image])[0, :3]  # without the mask that some have behind
    if made.do_normalize:
        mean, std = (torch.tensor(of)[:, None, None] for of in (made.image_mean, made.image_std))
        values = values * std + mean
    return images.fromarray((255 * values.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy())


def decode(
    processor: ProcessorMixin, tokens: torch.Tensor, config: PreTrainedConfig | None = None
) -> list[str]:
    """Generated tokens (B, T) to texts, without special tokens and outer white space. A family may
    have its answers in the model's configuration.
    """
    return family_of_processor(processor).decode(processor, tokens, config)


def unknown_words(processor: ProcessorMixin, text: str) -> list[str]:
    """The parts of a text that the vocabulary has no token for, each once; none of most models,
    whose tokenisers spell out what they do not know.
    """
    tokenizer = processor.tokenizer
    if tokenizer.unk_token_id is None:
        return []
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    places = zip(read["input_ids"], read["offset_mapping"], strict=True)
    words = (text[begin:end] for token, (begin, end) in places if token == tokenizer.unk_token_id)
    return list(dict.fromkeys(words))
