"""The prompts against PaliGemmaProcessor, which is the model's own definition of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PaliGemmaProcessor, PreTrainedTokenizerFast, SiglipImageProcessor

from qvla.captioning.prompts import (
    CAPTION_PREFIX,
    IGNORED,
    decode,
    encode_images,
    encode_text,
    prompt_of,
)
from qvla.errors import QvlaError

PREFIXES = ["caption en", "describe the beach", "caption en"]
SUFFIXES = ["many planes in a airport .", "sea", "green trees next to the river . some houses"]


@pytest.fixture(scope="module")
def processor(tiny_checkpoint: Path) -> PaliGemmaProcessor:
    return PaliGemmaProcessor.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def letters() -> PaliGemmaProcessor:
    """A processor to which every character is a token, so that no space goes unseen."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    entries = [*special, "\n", *map(chr, range(32, 127))]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    names = {name.strip("<>") + "_token": name for name in special}
    images = SiglipImageProcessor(size={"height": 32, "width": 32})
    images.image_seq_length = 4
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    return PaliGemmaProcessor(image_processor=images, tokenizer=fast)


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 60, 90, 3), np.uint8)
    sizes = [(90, 60), (31, 200), (32, 32)]
    return [Image.fromarray(p).resize(size) for p, size in zip(pixels, sizes, strict=True)]


def own_output(processor, photos, prefixes, suffixes=None, side: str = "left"):
    """The processor's answer, given one `<image>` a text as it recommends.

    It puts in `<bos>` and the newline itself.
    """
    count = len(prefixes)
    texts = [f"<image>{prefix}" for prefix in prefixes]
    return processor(
        images=[[photo] for photo in photos[:count]],
        text=texts,
        suffix=suffixes,
        padding="longest",
        padding_side=side,
        add_special_tokens=False,
        return_tensors="pt",
    )


@pytest.mark.parametrize("prefixes", [PREFIXES[:1], PREFIXES[:2], PREFIXES, ["", "caption en"]])
def test_a_prompt_is_the_processors_own(processor, photos, prefixes) -> None:
    ours = encode_text(processor, prefixes)
    theirs = own_output(processor, photos, prefixes)
    for key in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(ours[key], theirs[key]), key
    assert "labels" not in ours


def test_the_processor_builds_the_same_prompt_from_bare_text(processor, photos) -> None:
    theirs = processor(images=photos[0], text=CAPTION_PREFIX, return_tensors="pt")
    assert torch.equal(encode_text(processor, [CAPTION_PREFIX])["input_ids"], theirs["input_ids"])


@pytest.mark.parametrize("rows", [1, 3])
def test_a_training_row_is_the_processors_own(processor, photos, rows: int) -> None:
    ours = encode_text(processor, PREFIXES[:rows], SUFFIXES[:rows])
    theirs = own_output(processor, photos, PREFIXES[:rows], SUFFIXES[:rows], side="right")
    for key in ("input_ids", "attention_mask", "token_type_ids", "labels"):
        assert torch.equal(ours[key], theirs[key]), key


def test_no_space_slips_in(letters, photos) -> None:
    ours, theirs = encode_text(letters, PREFIXES), own_output(letters, photos, PREFIXES)
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    ours = encode_text(letters, PREFIXES, SUFFIXES)
    theirs = own_output(letters, photos, PREFIXES, SUFFIXES, side="right")
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert torch.equal(ours["labels"], theirs["labels"])
    assert "<unk>" not in letters.tokenizer.batch_decode(ours["input_ids"])
    answers = torch.where(ours["labels"] == IGNORED, 0, ours["labels"])
    assert decode(letters, answers) == SUFFIXES


def test_the_layout_is_images_bos_prefix_newline_suffix_eos(processor) -> None:
    tokenizer = processor.tokenizer
    (row,) = encode_text(processor, ["caption en"], ["the sea ."])["input_ids"].tolist()
    words = tokenizer.convert_ids_to_tokens(row)
    images = ["<image>"] * processor.image_seq_length
    assert words == [*images, "<bos>", "caption", "en", "\n", "the", "sea", ".", "<eos>"]


def test_padding_is_left_for_generation_and_right_for_training(processor) -> None:
    prompt = encode_text(processor, ["caption", "describe a beach in the sea"])
    length = prompt["attention_mask"].sum(1)
    assert length[0] < length[1] == prompt["input_ids"].shape[1]
    assert prompt["attention_mask"][0].tolist() == sorted(prompt["attention_mask"][0].tolist())
    assert prompt["input_ids"][0, -1] == prompt["input_ids"][1, -1]  # the newline ends both
    rows = encode_text(processor, PREFIXES[:2], SUFFIXES[:2])
    mask = rows["attention_mask"]
    assert mask[1].tolist() == sorted(mask[1].tolist(), reverse=True)
    assert mask[1].sum() < mask.shape[1]


def test_labels_hold_the_suffix_and_eos_alone(processor) -> None:
    batch = encode_text(processor, PREFIXES, SUFFIXES)
    for ids, labels, suffix in zip(batch["input_ids"], batch["labels"], SUFFIXES, strict=True):
        kept = labels != IGNORED
        assert torch.equal(ids[kept], labels[kept])
        assert labels[kept][-1] == processor.tokenizer.eos_token_id
        assert decode(processor, labels[kept][None]) == [suffix]
    assert torch.equal(batch["labels"] != IGNORED, batch["token_type_ids"] == 1)
    assert not (batch["labels"] == processor.tokenizer.pad_token_id).any()


def test_padding_never_changes_a_row(processor) -> None:
    alone = encode_text(processor, PREFIXES[:1], SUFFIXES[:1])
    together = encode_text(processor, PREFIXES, SUFFIXES)
    length = alone["input_ids"].shape[1]
    assert together["input_ids"].shape[1] > length
    for key in ("input_ids", "token_type_ids", "labels"):
        assert torch.equal(together[key][0, :length], alone[key][0]), key


def test_images_are_the_processors_own(processor, photos) -> None:
    ours = encode_images(processor, photos)
    theirs = own_output(processor, photos, PREFIXES)["pixel_values"]
    assert ours.shape == (3, 3, 32, 32)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, theirs)


def test_an_image_of_the_right_size_is_only_scaled_to_minus_one_to_one(processor, photos) -> None:
    pixels = np.moveaxis(np.asarray(photos[2]), 2, 0) / 127.5 - 1
    actual = encode_images(processor, photos[2:])[0].numpy()
    np.testing.assert_allclose(actual, pixels, atol=1e-5)


def test_decode_is_the_way_back(processor) -> None:
    tokens = processor.tokenizer(SUFFIXES, padding=True, return_tensors="pt")["input_ids"]
    assert decode(processor, tokens) == SUFFIXES


def test_decode_drops_what_is_no_text(processor) -> None:
    tokenizer = processor.tokenizer
    words = tokenizer.convert_tokens_to_ids(["\n", "the", "sea", "."])
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert decode(processor, torch.tensor([[*words, *ends], [*ends * 3]])) == ["the sea .", ""]


@pytest.mark.parametrize("token", ["<image>", "<bos>", "<eos>"])
def test_special_tokens_in_a_text_are_refused(processor: PaliGemmaProcessor, token: str) -> None:
    with pytest.raises(QvlaError, match=token):
        encode_text(processor, [f"caption {token} en"])
    with pytest.raises(QvlaError, match=token):
        encode_text(processor, ["caption en"], [f"a beach {token}"])


def test_a_question_is_asked_as_paligemma_was_trained_to_answer_it() -> None:
    assert prompt_of("is there a river?") == "answer en is there a river?"
    assert prompt_of("", "describe the beach") == "describe the beach"
    assert prompt_of("") == CAPTION_PREFIX
