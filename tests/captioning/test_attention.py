"""Where a model looked, against attention read from the model loaded alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from qvla.captioning.attention import Looked, where_it_looked
from qvla.captioning.decoding import Decoding
from qvla.captioning.engine import caption
from qvla.captioning.generation import CaptioningError
from qvla.captioning.lineup import Lineup
from tests.support.alone import LENGTH, Weights, load_alone, photos

PROMPT = "answer en is the beach white"
ANSWER = "many green trees"


def alone(checkpoint: Path, adapter: Path | None, **held: bool) -> Looked:
    """Image tokens come first in PaliGemma's prompt, then <bos>, the words, a newline, the answer
    and <eos>: the newline says the answer's first token, and its last token says <eos>.
    """
    processor = AutoProcessor.from_pretrained(checkpoint)
    model: Any = load_alone(checkpoint, adapter, **held)
    inner = model.get_base_model() if adapter is not None else model
    inner.set_attn_implementation("eager")
    inputs = processor(
        images=photos(1)[0], text=f"<image>{PROMPT}", suffix=ANSWER, return_tensors="pt"
    )
    inputs.pop("labels")
    with torch.no_grad():
        layers = model(**inputs, output_attentions=True).attentions
    attention = torch.stack(layers).float().mean(dim=(0, 1, 2)).double()  # (T, T)
    words, newline = len(PROMPT.split()), 4 + 1 + len(PROMPT.split())
    assert len(attention) == newline + 1 + len(ANSWER.split()) + 1
    question = attention[5 : 5 + words, :4].mean(0)
    answer = attention[newline : newline + len(ANSWER.split()), :4].mean(0)
    return Looked(*((one / one.sum()).reshape(2, 2).numpy() for one in (question, answer)))


@pytest.mark.parametrize("name", ["base", "adapter", "qvla"])
def test_attention_is_that_of_the_model_alone(lineup: Lineup, weights: Weights, name: str) -> None:
    adapter = {"base": None, "adapter": weights.adapter, "qvla": weights.nf4_adapter}[name]
    found = where_it_looked(lineup, name, photos(1)[0], PROMPT, ANSWER)
    expected = alone(weights.model, adapter, nf4=name == "qvla")
    near = 0.05 if name == "qvla" else 1e-5  # bfloat16 rounds otherwise in a packed layer
    assert found.question == pytest.approx(expected.question, abs=near)
    assert found.answer == pytest.approx(expected.answer, abs=near)
    assert found.question.sum() == pytest.approx(1) and found.answer.sum() == pytest.approx(1)


def test_answers_are_the_same_before_and_after(lineup: Lineup) -> None:
    photo, short = photos(1), Decoding(max_new_tokens=LENGTH)
    (before,) = caption(lineup, photo, decoding=short, prefixes=PROMPT)
    for name in reversed(lineup.names()):
        where_it_looked(lineup, name, photo[0], PROMPT, "")
    (after,) = caption(lineup, photo, decoding=short, prefixes=PROMPT)
    assert {name: said.text for name, said in before.items()} == {
        name: said.text for name, said in after.items()
    }
    model = lineup.shared("base").loaded.model
    assert model.config.text_config._attn_implementation == "sdpa"


def test_a_question_is_looked_at_by_the_adapter_that_answers_it(
    weights: Weights, tmp_path: Path
) -> None:
    shutil.copytree(weights.adapter, tmp_path / "pair")
    shutil.copytree(weights.other_adapter, tmp_path / "pair" / "vqa")
    pair = Lineup.load(weights.model, adapter=tmp_path / "pair", device="cpu", variants=["adapter"])
    found = where_it_looked(pair, "adapter", photos(1)[0], PROMPT, ANSWER)
    expected = alone(weights.model, weights.other_adapter)
    assert found.answer == pytest.approx(expected.answer, abs=1e-5)


def test_llava_attends_from_the_left_alone(tiny_llava: Path) -> None:
    lineup = Lineup.load(tiny_llava, device="cpu", precision="fp32", variants=["base"])
    found = where_it_looked(lineup, "base", photos(1)[0], PROMPT, ANSWER)
    assert found.question.shape == found.answer.shape == (2, 2)
    processor = AutoProcessor.from_pretrained(tiny_llava)
    text = f"USER: <image>\nis the beach white\nX ASSISTANT: {ANSWER}"
    text = text.replace("X", "Answer the question using a single word or phrase.")
    inputs = processor(images=photos(1)[0], text=text, return_tensors="pt")
    model = AutoModelForImageTextToText.from_pretrained(tiny_llava, attn_implementation="eager")
    with torch.no_grad():
        layers = model.eval()(**inputs, output_attentions=True).attentions
    attention = torch.stack(layers).mean(dim=(0, 1, 2)).double()
    tokens = inputs["input_ids"][0]
    image = (tokens == model.config.image_token_index).nonzero().flatten()
    last = len(tokens) - 1  # says the end; the answer's three tokens are said by those before
    answer = attention[last - 3 : last][:, image].mean(0)
    assert found.answer.ravel() == pytest.approx((answer / answer.sum()).numpy(), abs=1e-5)
    with pytest.raises(CaptioningError, match="not available"):
        where_it_looked(lineup, "adapter", photos(1)[0], PROMPT, ANSWER)
