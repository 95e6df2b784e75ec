"""The cross-modal adapter against its formula, written out on the decoder's input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import PaliGemmaProcessor

from qvla.captioning.prompts import encode_text
from qvla.methods.crossmodal import CrossModalConfig
from qvla.methods.tuner import TunerError
from tests.support.adapted import PRECISIONS, load, logits, make_inputs

OPEN = 0.7


def opened(checkpoint: Path, precision: str = "fp32") -> PeftModel:
    """An adapter whose gates are open."""
    torch.manual_seed(2)
    model = get_peft_model(load(checkpoint, precision), CrossModalConfig(r=4)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            parameter.data.fill_(OPEN)
    return model


@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_starts_from_the_bases_own_answers_bit_for_bit(
    precision: str, tiny_checkpoint: Path
) -> None:
    base = load(tiny_checkpoint, precision)
    batch = make_inputs(tiny_checkpoint, 2, base.dtype)
    due = logits(base, batch)
    model = get_peft_model(base, CrossModalConfig())
    assert torch.equal(logits(model.eval(), batch), due)
    model(**batch).logits.float().pow(2).mean().backward()
    gates = [p for name, p in model.named_parameters() if name.endswith("gate")]
    assert len(gates) == 2 and all(gate.grad.abs() > 0 for gate in gates)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_it_is_its_formula(side: str, attention: str, tiny_checkpoint: Path) -> None:
    processor = PaliGemmaProcessor.from_pretrained(tiny_checkpoint)
    suffixes = ["many planes near a road", "trees"] if side == "right" else None
    batch = dict(encode_text(processor, ["caption en", "describe the green trees"], suffixes))
    batch.pop("labels", None)
    pixels = make_inputs(tiny_checkpoint, 2)["pixel_values"]
    model = opened(tiny_checkpoint)
    model.set_attn_implementation({"text_config": attention})
    told = logits(model, {**batch, "pixel_values": pixels})

    plain = load(tiny_checkpoint)
    maps = {n: p.detach() for n, p in model.named_parameters() if "crossmodal" in n}
    maps = {n.partition("crossmodal_")[2].replace(".default", ""): p for n, p in maps.items()}
    embedded = plain.get_input_embeddings()(batch["input_ids"])
    features = plain.get_image_features(pixels).pooler_output
    photo = batch["input_ids"] == plain.config.image_token_id
    prompt = (batch["token_type_ids"] == 0) & batch["attention_mask"].bool() & ~photo
    hidden = embedded.detach().clone()
    for row in range(2):
        hidden[row, photo[row]] = features[row]
        seen, read = features[row].mean(0), embedded[row, prompt[row]].mean(0)
        gate = torch.tanh(torch.tensor(OPEN))
        hidden[row, prompt[row]] += gate * (maps["to_text.up"] @ (maps["to_text.down"] @ seen))
        hidden[row, photo[row]] += gate * (maps["to_image.up"] @ (maps["to_image.down"] @ read))
    rest = {n: value for n, value in batch.items() if n != "input_ids"}
    due = logits(plain, {"inputs_embeds": hidden, **rest})
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(told[real], due[real], rtol=0, atol=1e-4)
    base = logits(plain, {**batch, "pixel_values": pixels})
    assert (due - base)[real].abs().max() > 0.05


def test_a_cache_beams_and_given_features_leave_what_is_said_as_it_is(
    tiny_checkpoint: Path,
) -> None:
    model, batch = opened(tiny_checkpoint), make_inputs(tiny_checkpoint, 2)
    for beams in (1, 3):
        options = {"max_new_tokens": 6, "num_beams": beams, "do_sample": False}
        with torch.inference_mode():
            said = [
                model.generate(**batch, **options, use_cache=cached) for cached in (True, False)
            ]
            with model.disable_adapter():
                base = model.generate(**batch, **options)
        assert torch.equal(*said) and not torch.equal(said[0], base)


def test_a_prompt_without_a_photo_is_the_bases(tiny_checkpoint: Path) -> None:
    model, tokens = opened(tiny_checkpoint), torch.tensor([[2, 7, 8]])
    assert torch.equal(
        logits(model, {"input_ids": tokens}), logits(load(tiny_checkpoint), {"input_ids": tokens})
    )


def test_taking_it_off_leaves_nothing_behind(tiny_checkpoint: Path) -> None:
    model, batch = opened(tiny_checkpoint), make_inputs(tiny_checkpoint, 1)
    base = model.unload()
    assert not base.get_input_embeddings()._forward_pre_hooks
    assert torch.equal(logits(base, batch), logits(load(tiny_checkpoint), batch))


def test_a_rank_that_is_none_is_refused() -> None:
    with pytest.raises(TunerError, match="rank must be a whole number of at least 1, not 0"):
        CrossModalConfig(r=0)
