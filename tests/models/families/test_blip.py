"""BLIP against Transformers: sizes, what it is fed, and its loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import BlipProcessor

from qvla.captioning.prompts import IGNORED, encode_text
from qvla.errors import QvlaError
from qvla.models.backbone import load_backbone
from qvla.models.families import built_in, family_of
from qvla.models.footprint import census
from qvla.models.params import report
from qvla.planning import claims as counting
from qvla.planning.explorer import explore
from qvla.planning.planner import plan
from qvla.records.reported import reported_adapters
from tests.support.tiny_answers import QUESTIONS, SIDE, alone, build_tiny_blip

NAME = "Salesforce/blip-vqa-base"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_blip(tmp_path_factory.mktemp("blip"))


@pytest.fixture(scope="module")
def processor(checkpoint: Path) -> BlipProcessor:
    return BlipProcessor.from_pretrained(checkpoint)


def count(words: int = 30524, wide: int = 768, inner: int = 3072, layers: int = 12) -> int:
    """BLIP base by hand: a ViT of 16-pixel patches at 384 pixels, and BERT twice, with
    cross-attention; encoder and decoder have a table of words each.
    """
    norm, square = 2 * wide, wide**2 + wide
    mlp = wide * inner + inner + inner * wide + wide
    seen = 3 * 16 * 16 * wide + wide + wide + (24 * 24 + 1) * wide
    vision = seen + layers * (4 * square + mlp + 2 * norm) + norm
    table = words * wide + 512 * wide + norm
    bert = table + layers * (2 * (4 * square + norm) + mlp + norm)
    head = square + norm + words
    return vision + 2 * bert + head


def test_the_built_in_model_has_the_size_that_transformers_makes() -> None:
    with torch.device("meta"):
        due = transformers.BlipForQuestionAnswering(built_in()[NAME]())
    sizes = sum(parameter.numel() for _, parameter in due.named_parameters())
    counted = report(NAME)
    assert counted["full_params"] == sizes == count() == 361_230_140
    assert sum(counted["parts"].values()) == sizes
    # query, key and value, of own and cross-attention, in 12 layers of encoder and of decoder
    assert counted["method"] == "lora" and counted["adapter_sites"] == 2 * 12 * 6
    assert counted["adapter_params"] == 144 * 16 * (768 + 768)


def test_the_smallest_it_can_be_in_nf4_is_told_offline(checkpoint: Path) -> None:
    told = report(checkpoint)["weight_bytes"]
    counts = census(load_backbone(checkpoint, "nf4", device="cpu", for_training=True).model)
    assert counts.total_bytes == told["nf4"] == told["nf4_int8_embeddings"]


def test_question_and_answer_are_the_processors_own_tokens(processor: BlipProcessor) -> None:
    answers = ["yes", "two green planes", "a river", "blue"]
    prompts = [f"answer en {question}" for question in QUESTIONS]
    ours = encode_text(processor, prompts, answers)
    theirs = processor(text=QUESTIONS, padding=True, return_tensors="pt")
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert torch.equal(ours["attention_mask"], theirs["attention_mask"])
    said = processor(text=answers, padding=True, return_tensors="pt")
    assert torch.equal(ours["decoder_input_ids"], said["input_ids"])
    for row, text in enumerate(answers):
        labels = ours["labels"][row]
        assert labels[0] == IGNORED
        kept = labels[labels != IGNORED]
        assert processor.decode(kept, skip_special_tokens=True) == text
        assert kept[-1] == processor.tokenizer.sep_token_id
    asked = encode_text(processor, prompts)
    assert asked.keys() == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("token", ["<bos>", "<eos>", "<pad>"])
def test_a_token_of_the_layout_is_refused(processor: BlipProcessor, token: str) -> None:
    with pytest.raises(QvlaError, match=token):
        encode_text(processor, [f"answer en what is {token} ?"])


def test_logits_and_loss_are_those_of_each_answer_alone(
    checkpoint: Path, processor: BlipProcessor
) -> None:
    """Against Transformers' own forward, a row at a time, so that nothing of it is padded."""
    answers = ["yes", "two green planes", "a river", "blue"]
    batch = dict(encode_text(processor, [f"answer en {one}" for one in QUESTIONS], answers))
    labels = batch.pop("labels")
    pixels = torch.randn(len(answers), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    backbone = load_backbone(checkpoint, "fp32", device="cpu")
    family, model = backbone.family, backbone.model
    theirs: Any = alone(checkpoint)
    with torch.no_grad():
        features = family.image_features(model, pixels)
        logits = model(**batch, **family.given_features(features)).logits
        for row, (question, answer) in enumerate(zip(QUESTIONS, answers, strict=True)):
            inputs = processor(text=question, return_tensors="pt")
            said = processor(text=answer, return_tensors="pt")["input_ids"]
            begun = said.clone()
            begun[:, 0] = theirs.config.text_config.bos_token_id
            due = theirs(
                **inputs, pixel_values=pixels[row : row + 1], decoder_input_ids=begun, labels=said
            ).loss
            kept = labels[row, 1:] != IGNORED
            ours = cross_entropy(logits[row, :-1][kept], labels[row, 1:][kept])
            assert ours.item() == pytest.approx(due.item(), rel=1e-4)


def test_position_numbers_of_older_files_are_passed_over(checkpoint: Path, tmp_path: Path) -> None:
    """As the published file has them, beside a copy of the table that the head is tied to."""
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    table = tensors["text_decoder.bert.embeddings.word_embeddings.weight"]
    tensors["text_decoder.cls.predictions.decoder.weight"] = table.clone()
    for part in ("text_encoder", "text_decoder.bert"):
        tensors[f"{part}.embeddings.position_ids"] = torch.arange(64)[None]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = load_backbone(tmp_path, "fp32", device="cpu").model
    due = dict(alone(checkpoint).named_parameters())
    assert due.keys() == dict(loaded.named_parameters()).keys()
    assert all(torch.equal(one, due[name]) for name, one in loaded.named_parameters())


def test_its_paths_lie_where_its_parts_are() -> None:
    config = built_in()[NAME]()
    family = family_of(config)
    model = family.skeleton(config)
    names = [name for name, _ in model.named_parameters()]
    assert all(name.startswith(tuple(family.parts)) for name in names)
    assert model.get_submodule(family.head) is model.get_output_embeddings()
    assert model.get_submodule(family.head).weight is model.get_submodule(family.embedding).weight
    for stack in (family.places(config).language, family.places(config).vision):
        for path in stack.paths:
            assert len(model.get_submodule(path)) == stack.depth
            for name, sublayers in stack.projections.items():
                for sublayer in sublayers:
                    linear: Any = model.get_submodule(f"{path}.0.{sublayer}.{name}")
                    assert linear.in_features == stack.inputs(name)


def test_an_exploration_goes_into_encoder_and_decoder_and_plans_no_memory() -> None:
    found = explore(NAME, "lora", lora_targets=["query", "key", "value"])
    assert found.trainable_params == 144 * 16 * (768 + 768)
    assert [tower.title for tower in found.towers] == ["Vision tower", "Text encoder and decoder"]
    assert found.towers[1].layers == 12 and len(found.towers[1].lit) == 12 * 6
    assert found.train_bytes is None and found.serve_bytes is None
    with pytest.raises(QvlaError, match="memory of a BLIP cannot be planned"):
        plan(NAME)


def test_what_was_reported_of_it_stands_beside_what_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = reported_adapters()
    own = [one for one in told["claims"] if one.get("model") == NAME]  # others take seconds
    monkeypatch.setattr(counting, "reported_adapters", lambda: {**told, "claims": own})
    size, disk = counting.claims.__wrapped__()
    assert (size.said, size.counted, size.agrees) == ("214 M", 361_230_140, False)
    counted = report(NAME)["weight_bytes"]["nf4"]
    assert (disk.said, disk.counted, disk.agrees) == ("<125MB", counted, False)
    # half a byte a weight of 289 linear layers, their scales (a byte for 64 weights, 4 for 256 of
    # those, 1,092 of tables each), and two bytes of all else, the two tables of words above all
    square, mlp = 768**2, 2 * 768 * 3072
    linear = 12 * (4 * square + mlp) + 24 * (8 * square + mlp) + square
    scales = linear // 64 + 4 * linear // (64 * 256) + 289 * 1092
    assert counted == linear // 2 + scales + 2 * (361_230_140 - linear) == 259_701_964
