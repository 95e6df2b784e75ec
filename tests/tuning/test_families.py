"""Training and evaluation of a family other than PaliGemma, and on a base in INT8."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText, AutoProcessor

from qvla.captioning.decoding import Decoding
from qvla.captioning.prompts import IGNORED
from qvla.data.examples import read_examples
from qvla.evaluation.evaluate import Scoring, evaluate
from qvla.scoring import METRICS
from qvla.settings import load_settings
from qvla.tuning.training import train
from tests.support.alone import LENGTH, Alone
from tests.support.colours import batch_of, our_loss, recipe_for, write_colours
from tests.support.tiny import PROMPTS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("data"))


def test_the_loss_is_that_of_the_answers_tokens(tiny_llava: Path, data: Path) -> None:
    """Against a plain loop over the photos, with the processor's own tensors."""
    model = AutoModelForImageTextToText.from_pretrained(tiny_llava).eval()
    processor = AutoProcessor.from_pretrained(tiny_llava)
    examples = read_examples(data)[:5]
    batch = batch_of(tiny_llava, examples)
    surprise, count = 0.0, 0
    for example, labels in zip(examples, batch["labels"], strict=True):
        said = processor.tokenizer.decode(labels[labels != IGNORED], skip_special_tokens=True)
        assert said in example.references
        text = f"{PROMPTS['llava']} {said}<eos>"
        with Image.open(example.image) as photo:
            inputs = processor(images=photo, text=text, return_tensors="pt")
        answer = len(said.split()) + 1
        with torch.no_grad():
            logits = model(**inputs).logits[0, -answer - 1 : -1]
        surprise += cross_entropy(logits, inputs["input_ids"][0, -answer:], reduction="sum").item()
        count += answer
    assert our_loss(model, batch).item() == pytest.approx(surprise / count, rel=1e-4)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        pytest.param("lora", {"rank": 4}, marks=pytest.mark.slow),  # which the next test runs too
        ("qlora", {"rank": 4, "bf16": True}),
        pytest.param(
            "lora", {"rank": 4, "precision": "int8", "bf16": True}, marks=pytest.mark.slow
        ),
        ("adapter", {"precision": "int8", "bf16": True}),
    ],
)
def test_a_short_run_learns(
    method: str, options: dict, tiny_llava: Path, data: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(
        *(tiny_llava, data, tmp_path / "out"),
        **{"method": method, "max_steps": 8, "learning_rate": 2e-2, "eval_splits": [], **options},
    )
    losses = [row["loss"] for row in train(recipe).card["curve"] if "loss" in row]
    assert losses[-1] < 0.9 * losses[0]


def test_a_trained_adapter_is_evaluated_and_captions_as_alone(
    tiny_llava: Path, data: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(
        tiny_llava, data, tmp_path / "out", method="lora", max_steps=4, eval_splits=[]
    )
    train(recipe)
    settings = load_settings(
        model=str(tiny_llava), adapter=str(recipe.output), device="cpu", precision="fp32"
    )
    examples = read_examples(data, splits=["val"])[:3]
    made = evaluate(
        settings,
        examples,
        ["base", "adapter"],
        data="colours",
        out=tmp_path / "evaluations",
        records_folder=tmp_path / "records",
        decoding=Decoding(max_new_tokens=LENGTH),
        scoring=Scoring(metrics=METRICS, resamples=20),
    )
    for name, adapter in (("base", None), ("adapter", recipe.output)):
        alone = Alone(tiny_llava, adapter)
        for example in examples:
            with Image.open(example.image) as photo:
                due = alone.text(photo)
            assert made.predictions.captions[name][example.name] == due
    assert made.record.numbers["standard/all/images"] == len(examples)
