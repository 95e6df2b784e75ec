"""Prefix tuning against attention written out by hand, and against what PEFT's own cannot do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from transformers import PaliGemmaProcessor
from transformers.models.gemma.modeling_gemma import GemmaAttention, apply_rotary_pos_emb

from qvla.captioning.prompts import encode_text
from qvla.methods.prefix import PrefixConfig
from qvla.methods.tuner import TunerError
from tests.support.adapted import load, logits, make_inputs, randomise

TOKENS = 5


def with_suffixes(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Two rows of training, the second padded on the right."""
    processor = PaliGemmaProcessor.from_pretrained(checkpoint)
    batch = encode_text(processor, ["caption en"] * 2, ["many planes near a road", "trees"])
    pixels = make_inputs(checkpoint, 2)["pixel_values"]
    return {name: value for name, value in batch.items() if name != "labels"} | {
        "pixel_values": pixels
    }


def sight(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Who attends to whom (B, T, T) in PaliGemma: all to the prompt, an answer to what precedes."""
    length = batch["input_ids"].shape[1]
    causal = torch.ones(length, length).tril().bool()
    prompt = batch["token_type_ids"] == 0
    both = causal | (prompt[:, :, None] & prompt[:, None, :])
    return both & batch["attention_mask"].bool()[:, None, :]


@contextmanager
def by_hand(seen: torch.Tensor, prefixes: dict[int, tuple[torch.Tensor, torch.Tensor]]) -> Iterator:
    """Attention of plain sums, without a cache, with keys and values (H, P, D) put before."""

    def forward(self: GemmaAttention, hidden_states, position_embeddings, **_: object) -> tuple:
        rows, length, _ = hidden_states.shape
        states = [
            projection(hidden_states).view(rows, length, -1, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        ]
        queries, keys = apply_rotary_pos_emb(states[0], states[1], *position_embeddings)
        values, allowed = states[2], seen
        if self.layer_idx in prefixes:
            more_keys, more_values = prefixes[self.layer_idx]
            keys = torch.cat([more_keys.expand(rows, -1, -1, -1), keys], 2)
            values = torch.cat([more_values.expand(rows, -1, -1, -1), values], 2)
            everybody = torch.ones(rows, length, more_keys.shape[1], dtype=torch.bool)
            allowed = torch.cat([everybody, seen], 2)
        heads = []
        for head in range(queries.shape[1]):  # each group of query heads has one key head
            group = head // self.num_key_value_groups
            scores = queries[:, head] @ keys[:, group].transpose(1, 2) * self.head_dim**-0.5
            weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
            heads.append(weights @ values[:, group])
        return self.o_proj(torch.cat(heads, -1)), None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GemmaAttention, "forward", forward)
        yield


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("masked", [True, False])
def test_it_is_attention_to_a_prefix_written_out_by_hand(
    masked: bool, attention: str, tiny_checkpoint: Path
) -> None:
    base, plain, batch = (
        load(tiny_checkpoint),
        load(tiny_checkpoint),
        with_suffixes(tiny_checkpoint),
    )
    seen = sight(batch)
    if not masked:  # of a single row from left to right SDPA is told by no mask
        batch = {name: value[:1] for name, value in batch.items() if name != "token_type_ids"}
        seen = torch.ones_like(seen[:1]).tril()
    for model in (base, plain):
        model.set_attn_implementation({"text_config": attention})
        for layer in model.model.language_model.layers:
            layer.self_attn.is_causal = not masked  # as it is in other language models
    model = get_peft_model(base, PrefixConfig(num_virtual_tokens=TOKENS, layers=[0, 2])).eval()
    randomise(model, "default", seed=3)
    prefixes = {
        index: (layer.prefix_keys["default"].detach(), layer.prefix_values["default"].detach())
        for index in (0, 2)
        for layer in [base.model.language_model.layers[index].self_attn]
    }
    assert prefixes[0][0].shape == (1, TOKENS, 32)
    found, start = logits(model, batch), logits(plain, batch)
    with by_hand(seen, prefixes):
        due = logits(plain, batch)
    with by_hand(seen, {}):
        without = logits(plain, batch)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], due[real], rtol=0, atol=1e-5)
    torch.testing.assert_close(without[real], start[real], rtol=0, atol=1e-5)
    assert (due - without)[real].abs().max() > 0.05


@pytest.mark.parametrize("beams", [1, 3])
def test_a_cache_and_beams_leave_what_is_said_as_it_is(beams: int, tiny_checkpoint: Path) -> None:
    model = get_peft_model(load(tiny_checkpoint), PrefixConfig(num_virtual_tokens=TOKENS)).eval()
    randomise(model, "default", seed=4)
    for name, parameter in model.named_parameters():
        if "prefix_values" in name:
            parameter.data *= 9  # so that it is heard above what a photo says
    batch = make_inputs(tiny_checkpoint, 2)
    options = {"max_new_tokens": 6, "num_beams": beams, "do_sample": False}
    with torch.inference_mode():
        said = [model.generate(**batch, **options, use_cache=cached) for cached in (True, False)]
        with model.disable_adapter():
            base = model.generate(**batch, **options)
    assert torch.equal(*said) and not torch.equal(said[0], base)


def test_prompt_and_photo_see_each_other_which_they_do_not_with_pefts_own(
    tiny_checkpoint: Path,
) -> None:
    batch = make_inputs(tiny_checkpoint, 1)
    other = {**batch, "input_ids": batch["input_ids"].clone()}
    other["input_ids"][:, -2] += 1

    def told(model: torch.nn.Module) -> float:
        """By how much the photo's first token hears of the prompt's last word."""
        return (logits(model, batch) - logits(model, other))[:, 0].abs().max().item()

    ours = get_peft_model(load(tiny_checkpoint), PrefixConfig(num_virtual_tokens=1)).eval()
    config = PrefixTuningConfig(num_virtual_tokens=1, task_type="CAUSAL_LM")
    theirs = get_peft_model(load(tiny_checkpoint), config).eval()
    with pytest.warns(UserWarning, match="Token type ids are not supported"):
        assert told(theirs) == 0
    assert told(ours) > 0.05 and told(load(tiny_checkpoint)) > 0.05


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_virtual_tokens": 0}, "number of virtual tokens must be a whole number"),
        ({"layers": [-1]}, "Layers must be one or more indices"),
        ({"layers": [3]}, "no decoder layer 3: choose layers from 0 to 2"),
        ({"init_std": float("nan")}, "standard deviation"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, words: str, tiny_checkpoint: Path) -> None:
    with pytest.raises(TunerError, match=words):
        get_peft_model(load(tiny_checkpoint), PrefixConfig(**options))
