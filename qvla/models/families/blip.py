"""BLIP for visual question answering (arXiv 2201.12086, section 5.3): a vision transformer, an
encoder of the question that attends to the photo, and a decoder of the answer that attends to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import transformers
from transformers import (
    BlipConfig,
    BlipProcessor,
    BlipTextConfig,
    BlipVisionConfig,
    PreTrainedTokenizerBase,
)
from transformers.feature_extraction_utils import BatchFeature
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions

from qvla.models.architectures import BLIP_VQA
from qvla.models.families.family import (
    EMBEDDINGS,
    IGNORED,
    LANGUAGE_MODEL,
    VISION_TOWER,
    Family,
    bare_question,
    bracket,
    question_tokens,
)
from qvla.settings import QUESTION_PREFIX


def blip_vqa_base() -> BlipConfig:
    """ViT-B/16 at 384 pixels, and BERT base twice, with cross-attention (BLIP, section 4.1)."""
    text = BlipTextConfig(
        vocab_size=30524,
        hidden_size=768,
        encoder_hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=512,
        bos_token_id=30522,
        pad_token_id=0,
        sep_token_id=102,
    )
    vision = BlipVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=384,
        patch_size=16,
    )
    return BlipConfig(text_config=text, vision_config=vision)


class BlipForQuestionAnswering(transformers.BlipForQuestionAnswering):
    """Transformers' model, of the same weights and name, which can be given what the vision tower
    saw, tells the answer's logits, and does not attend to the padding of questions.
    """

    _keys_to_ignore_on_load_unexpected = [r"position_ids$"]  # of older files # noqa: RUF012

    def __init__(self, config: BlipConfig) -> None:
        super().__init__(config)
        layers: Any = self.text_decoder.bert.encoder.layer
        for layer in layers:
            layer.crossattention.self.register_forward_pre_hook(_heed_mask, with_kwargs=True)

    def enable_input_require_grads(self) -> None:
        """Nothing: embeddings are added to in place, which gradients of their own would forbid, and
        recomputing without re-entering, as it is done here, needs none.
        """

    def get_output_embeddings(self) -> Any:
        return self.text_decoder.get_output_embeddings()

    def forward(  # Transformers' own tells a loss in place of logits
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        decoder_input_ids: torch.Tensor,
        decoder_attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        **options: Any,
    ) -> CausalLMOutputWithCrossAttentions:
        """Questions (B, Q), and answers (B, T) whose first token is replaced by the one that the
        decoder begins with, to logits (B, T, vocabulary).

        Of the photos either `pixel_values` (B, 3, S, S) or `image_embeds` (B, N, D) are given.
        `options` are those of the decoder, such as `logits_to_keep`.
        """
        question = self._read(input_ids, attention_mask, pixel_values, image_embeds)
        begun = decoder_input_ids.clone()
        begun[:, 0] = self.decoder_start_token_id
        said: CausalLMOutputWithCrossAttentions = self.text_decoder(
            input_ids=begun,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=question,
            encoder_attention_mask=attention_mask,
            **options,
        )
        return said

    @torch.no_grad()
    def generate(  # type: ignore[override] # it wants pixels
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        **options: Any,
    ) -> torch.Tensor:
        """The decoder's tokens (B, T), the one that it begins with first; `options` are those of
        Transformers' `generate`.
        """
        decoder: Any = self.text_decoder
        text: Any = self.config.text_config
        tokens: torch.Tensor = decoder.generate(
            input_ids=input_ids.new_full((len(input_ids), 1), self.decoder_start_token_id),
            encoder_hidden_states=self._read(input_ids, attention_mask, pixel_values, image_embeds),
            encoder_attention_mask=attention_mask,
            eos_token_id=text.sep_token_id,
            pad_token_id=text.pad_token_id,
            **options,
        )
        return tokens

    def _read(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor | None,
        image_embeds: torch.Tensor | None,
    ) -> torch.Tensor:
        """The questions (B, Q, H) as the encoder reads them before the photos."""
        if image_embeds is None:
            image_embeds = self.vision_model(pixel_values=pixel_values).last_hidden_state
        read: torch.Tensor = self.text_encoder(
            input_ids=input_ids, attention_mask=attention_mask, encoder_hidden_states=image_embeds
        ).last_hidden_state
        return read


def _heed_mask(module: Any, given: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Hands the mask of the question over under the name that cross-attention reads: Transformers
    5.23 has it under the other, so that an answer would change with what it is asked beside.
    """
    if named.get("encoder_attention_mask") is None:
        named = {**named, "encoder_attention_mask": named.get("attention_mask")}
    return given, named


class Blip(Family):
    """It takes a question bare, without `answer en` before it, and says a short answer. There are
    BLIPs for captions too, of other classes: this one has none.

    Question and answer are each `[CLS]`, words, `[SEP]`; the decoder has a first token of its own
    in place of `[CLS]`.
    """

    model_type = "blip"
    title = "BLIP"
    config_class = BlipConfig
    model_class = BlipForQuestionAnswering
    processor_class = BlipProcessor

    decoder = "text_decoder"
    decoder_layers = "text_decoder.bert.encoder.layer"
    encoder_layers = "text_encoder.encoder.layer"
    language_title = "text encoder and decoder"
    embedding = "text_decoder.bert.embeddings.word_embeddings"
    head = "text_decoder.cls.predictions.decoder"
    tower = "vision_model"
    tower_layers = "vision_model.encoder.layers"
    projector_linears = ()
    projections: ClassVar = dict.fromkeys(
        ("query", "key", "value"), ("attention.self", "crossattention.self")
    )
    tower_projections: ClassVar = {
        **dict.fromkeys(("qkv", "projection"), ("self_attn",)),
        **dict.fromkeys(("fc1", "fc2"), ("mlp",)),
    }
    outputs: ClassVar = {"attention": "dense", "mlp": "dense"}
    tower_outputs: ClassVar = {"attention": "projection", "mlp": "fc2"}

    built_in: ClassVar = {BLIP_VQA: blip_vqa_base}
    image_token = None  # the photo stands in no prompt
    neutral_norm = 1.0
    prompt_tokens = 8
    one_text = False
    no_plan = "its encoder and decoder keep other activations than a decoder alone"
    holds_int8_table = False  # its encoder has a table of its own, and its head a bias
    usual_method = "lora"
    usual_settings: ClassVar = {"lora_targets": ["query", "key", "value"]}
    usual_prompt = f"{QUESTION_PREFIX} what is in the photo?"

    @property
    def sight(self) -> tuple[str, ...]:
        return (self.tower,)

    @property
    def language_layers(self) -> tuple[str, ...]:
        return (self.encoder_layers, self.decoder_layers)

    @property
    def text(self) -> tuple[str, ...]:
        return ("text_encoder", "text_decoder")

    @property
    def parts(self) -> Mapping[str, str]:
        return {
            "text_encoder.embeddings.word_embeddings": EMBEDDINGS,
            self.embedding: EMBEDDINGS,
            self.head: EMBEDDINGS,
            self.tower: VISION_TOWER,
            **dict.fromkeys(self.text, LANGUAGE_MODEL),
        }

    def end_tokens(self, model: Any, processor: Any) -> set[int]:
        return {model.config.text_config.sep_token_id}

    def generate(
        self,
        model: Any,
        prompt: Mapping[str, torch.Tensor],
        features: torch.Tensor,
        **options: Any,
    ) -> torch.Tensor:
        return model.generate(**prompt, **self.given_features(features), **options)[:, 1:]

    def trial(self, model: Any) -> dict[str, torch.Tensor]:
        width = model.config.vision_config.hidden_size
        texts = super().trial(model)
        return {
            **texts,
            "decoder_input_ids": texts["input_ids"],
            "image_embeds": torch.zeros(1, 1, width, dtype=model.dtype),
        }

    def fits(self, processor: Any, config: Any) -> bool:
        return (
            len(processor.tokenizer) <= config.text_config.vocab_size
            and processor.tokenizer.sep_token_id == config.text_config.sep_token_id
            and self.processor_side(processor) == self.image_side(config)
        )

    def expected(self, config: Any) -> str:
        text, side = config.text_config, self.image_side(config)
        return (
            f"at most {text.vocab_size:,} words, with an end of number {text.sep_token_id}, and "
            f"{side} x {side} pixels"
        )

    def attention(self, config: Any) -> dict[str, str]:
        """Transformers has no other for it."""
        return {"": "eager", "vision_config": "eager", "text_config": "eager"}

    def image_side(self, config: Any) -> int:
        return config.vision_config.image_size

    def image_tokens(self, config: Any) -> int:
        """What its encoder attends to: the patches and the class token."""
        vision = config.vision_config
        return (vision.image_size // vision.patch_size) ** 2 + 1

    def processor_side(self, processor: BlipProcessor) -> int | None:
        size: Any = processor.image_processor.size
        return size["height"] if size.get("height") == size.get("width") else None

    def processor_tokens(self, processor: BlipProcessor) -> int:
        raise ValueError("a photo takes no tokens of a question")

    def resizing(self, side: int) -> dict[str, Any]:
        return {"size": {"height": side, "width": side}}

    def image_features(self, model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
        return model.vision_model(pixel_values=pixel_values).last_hidden_state

    def given_features(self, features: torch.Tensor) -> dict[str, Any]:
        return {"image_embeds": features}

    def prompt(self, prefix: str) -> str:
        return bare_question(prefix, self.title)

    def encode(
        self,
        processor: BlipProcessor,
        prefixes: Sequence[str],
        suffixes: Sequence[str] | None = None,
    ) -> BatchFeature:
        """Questions are padded on the right in either case. With suffixes there are also
        `decoder_input_ids` and `decoder_attention_mask` (B, T), of which the labels are.
        """
        tokenizer = processor.tokenizer
        self.refuse_tokens((*prefixes, *(suffixes or ())), tokenizer.all_special_tokens)
        batch = question_tokens(tokenizer, [self.prompt(one) for one in prefixes], self.title)
        if suffixes is not None:
            answers = question_tokens(tokenizer, suffixes, self.title)
            seen = answers["attention_mask"].bool()
            seen[:, 0] = False  # the first token is given
            batch |= {f"decoder_{name}": tensor for name, tensor in answers.items()}
            batch["labels"] = answers["input_ids"].masked_fill(~seen, IGNORED)
        return BatchFeature(batch)

    def make_processor(
        self, tokenizer: PreTrainedTokenizerBase, *, image_size: int, image_tokens: int
    ) -> BlipProcessor:
        """A vocabulary's `<bos>` and `<eos>` stand for BERT's `[CLS]` and `[SEP]`."""
        from transformers import BlipImageProcessor  # which warns where there is no torchvision

        bracket(tokenizer)
        images = BlipImageProcessor(**self.resizing(image_size))
        return BlipProcessor(image_processor=images, tokenizer=tokenizer)


BLIP = Blip()
