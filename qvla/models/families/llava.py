"""LLaVA-1.5 (arXiv 2310.03744): CLIP's vision transformer, two linear layers, and Vicuna."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)
from transformers.feature_extraction_utils import BatchFeature
from transformers.modeling_outputs import BaseModelOutputWithPooling

from qvla.models.architectures import LLAVA_7B, LLAVA_13B
from qvla.models.families.family import IGNORED, PUBLISHED_LAYOUT, Family
from qvla.settings import CAPTION_PREFIX, QUESTION_PREFIX

# How LLaVA-1.5 was asked for a caption in its training (the same paper, table 7, TextCaps).
CAPTION_INSTRUCTION = "Provide a one-sentence caption for the provided image."
# Behind a question, as of VQAv2 and its like (the same table).
ANSWER_INSTRUCTION = "Answer the question using a single word or phrase."


def llava_7b() -> LlavaConfig:
    """CLIP ViT-L/14 at 336 pixels and Vicuna 7B."""
    return _llava(hidden_size=4096, intermediate_size=11008, layers=32, heads=32)


def llava_13b() -> LlavaConfig:
    """CLIP ViT-L/14 at 336 pixels and Vicuna 13B."""
    return _llava(hidden_size=5120, intermediate_size=13824, layers=40, heads=40)


def _llava(*, hidden_size: int, intermediate_size: int, layers: int, heads: int) -> LlavaConfig:
    """Of Vicuna's 32,000 tokens, `<image>`, `<pad>` and 62 that are never used."""
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        patch_size=14,
        image_size=336,
        projection_dim=768,
    )
    text = LlamaConfig(
        vocab_size=32064,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=32001,
    )
    return LlavaConfig(  # type: ignore[call-arg] # what it does not declare it keeps
        vision_config=vision,
        text_config=text,
        image_token_index=32000,
        image_seq_length=576,
        pad_token_id=32001,
    )


class Llava(Family):
    """Its prompt is a turn of a chat: `USER: <image>`, a newline, the instruction, ` ASSISTANT:`,
    and in training a space, the suffix and `</s>`. Everything is attended to from the left alone.

    The task prefix `caption en`, which is PaliGemma's, is said as CAPTION_INSTRUCTION, and behind
    a question, without its `answer en`, comes ANSWER_INSTRUCTION. Any other
    text stands in the prompt as it is.
    """

    model_type = "llava"
    title = "LLaVA"
    config_class = LlavaConfig
    model_class = LlavaForConditionalGeneration
    processor_class = LlavaProcessor

    decoder = "model.language_model"
    decoder_layers = "model.language_model.layers"
    embedding = "model.language_model.embed_tokens"
    head = "lm_head"
    tower = "model.vision_tower"
    tower_layers = "model.vision_tower.encoder.layers"
    projector = "model.multi_modal_projector"
    projector_linears = ("linear_1", "linear_2")

    built_in: ClassVar = {LLAVA_7B: llava_7b, LLAVA_13B: llava_13b}
    published = PUBLISHED_LAYOUT
    image_token = "<image>"
    neutral_norm = 1.0
    # The captioning prompt's, photo aside: estimated from its words, as the published tokeniser was
    # not at hand.
    prompt_tokens = 26

    def tower_depth(self, config: Any) -> int:
        """Up to the layer that the features are taken from, the last but one as published: those
        behind it are computed and thrown away.
        """
        taken = config.vision_feature_layer
        depth = config.vision_config.num_hidden_layers
        each = [taken] if isinstance(taken, int) else taken
        return max(one if one >= 0 else depth + 1 + one for one in each)

    def unused(self, config: Any) -> Sequence[str]:
        depth = config.vision_config.num_hidden_layers
        behind = range(self.tower_depth(config), depth)
        layers = [f"{self.tower_layers}.{layer}" for layer in behind]
        return [*layers, f"{self.tower}.post_layernorm"]  # which is of the class token alone

    def attention(self, config: Any) -> dict[str, str]:
        return {"": "sdpa", "vision_config": "sdpa", "text_config": "sdpa"}

    def image_side(self, config: Any) -> int:
        return config.vision_config.image_size

    def image_tokens(self, config: Any) -> int:
        vision = config.vision_config
        return self._tokens(
            vision.image_size, vision.patch_size, 1, config.vision_feature_select_strategy
        )

    def processor_side(self, processor: LlavaProcessor) -> int | None:
        images: Any = processor.image_processor
        cut, size = images.crop_size, images.size
        side = cut["height"] if images.do_center_crop else size.get("height")
        resized = {size[name] for name in ("shortest_edge", "height", "width") if name in size}
        square = not images.do_center_crop or cut["height"] == cut["width"]
        return side if square and resized == {side} else None

    def processor_tokens(self, processor: LlavaProcessor) -> int:
        """Its processor counts the class token too, as one additional token, and takes it off."""
        side = self.processor_side(processor)
        if side is None or processor.patch_size is None:
            raise ValueError("patch_size or a square size is missing")
        return self._tokens(
            side,
            processor.patch_size,
            processor.num_additional_image_tokens,
            processor.vision_feature_select_strategy,
        )

    def resizing(self, side: int) -> dict[str, Any]:
        square = {"height": side, "width": side}
        return {"size": {"shortest_edge": side}, "crop_size": square}

    def image_features(self, model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
        """Of the layer that the configuration names, the last but one, without the class token."""
        return torch.stack(list(model.get_image_features(pixel_values).pooler_output))

    def given_features(self, features: torch.Tensor) -> dict[str, Any]:
        seen = BaseModelOutputWithPooling(pooler_output=list(features))  # type: ignore[arg-type]
        return {"mm_encoder_outputs": {"image": seen}}

    def prompt(self, prefix: str) -> str:
        question = prefix.removeprefix(f"{QUESTION_PREFIX} ")
        said = CAPTION_INSTRUCTION if prefix == CAPTION_PREFIX else prefix
        if question != prefix:
            said = f"{question}\n{ANSWER_INSTRUCTION}"
        return f"USER: {self.image_token}\n{said} ASSISTANT:"

    def encode(
        self,
        processor: LlavaProcessor,
        prefixes: Sequence[str],
        suffixes: Sequence[str] | None = None,
    ) -> BatchFeature:
        """Prompt and answer pass the tokeniser as one text, so that a caption is cut into the
        tokens that the model says it in.
        """
        tokenizer = processor.tokenizer
        special = (processor.image_token, tokenizer.bos_token, tokenizer.eos_token)
        self.refuse_tokens((*prefixes, *(suffixes or ())), special)
        images = processor.image_token * self.processor_tokens(processor)
        prompts = [self.prompt(one).replace(self.image_token, images, 1) for one in prefixes]
        texts = prompts
        if suffixes is not None:
            texts = [
                f"{prompt} {text}{tokenizer.eos_token}"
                for prompt, text in zip(prompts, suffixes, strict=True)
            ]
        batch = tokenizer(
            texts,
            padding=True,
            padding_side="left" if suffixes is None else "right",
            return_attention_mask=True,
            return_token_type_ids=False,
            return_offsets_mapping=suffixes is not None,
            return_tensors="pt",
        )
        if suffixes is not None:
            ends = batch.pop("offset_mapping")[..., 1]  # (B, T), in letters of each text
            begins = torch.tensor([len(prompt) for prompt in prompts])[:, None]
            batch["labels"] = batch["input_ids"].masked_fill(ends <= begins, IGNORED)
        return BatchFeature(dict(batch))

    def make_processor(
        self, tokenizer: PreTrainedTokenizerBase, *, image_size: int, image_tokens: int
    ) -> LlavaProcessor:
        """The patch size is told from the number of tokens, as LLaVA-1.5 has them: without the
        class token's.
        """
        from transformers import CLIPImageProcessor  # which warns where there is no torchvision

        words: Any = tokenizer  # its tokeniser begins every text by itself
        first = (tokenizer.bos_token, tokenizer.bos_token_id)
        words.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{first[0]} $A", pair=f"{first[0]} $A $B", special_tokens=[first]
        )
        return LlavaProcessor(
            image_processor=CLIPImageProcessor(**self.resizing(image_size)),
            tokenizer=tokenizer,
            patch_size=image_size // round(image_tokens**0.5),
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )

    def _tokens(self, side: int, patch: int, additional: int, strategy: str) -> int:
        return (side // patch) ** 2 + additional - (strategy == "default")


LLAVA = Llava()
