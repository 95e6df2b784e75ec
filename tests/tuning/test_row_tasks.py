"""Rows of several tasks in one batch of a multi-task LoRA: each by its own prompt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel

from qvla.captioning.desk import greedy
from qvla.captioning.prompts import decode, encode_images, encode_text, prompt_of, task_of
from qvla.data.examples import read_examples
from qvla.data.imagery import open_image
from qvla.data.risc import Example
from qvla.methods.recipe import TrainingError
from qvla.models.adapters import load_adapter
from qvla.models.backbone import Backbone, load_backbone
from qvla.tuning.methods import add_method
from qvla.tuning.training import train
from tests.support.adapted import randomise
from tests.support.colours import batch_of, gradients, our_loss, recipe_for

TASKS = ["detect", "caption", "vqa"]
TOKENS = 5


@pytest.fixture(scope="module")
def rows(data: Path) -> list[Example]:
    """A photo to be captioned, and one with a question."""
    first, second, *_ = (example.image for example in read_examples(data))
    return [
        Example(first, "MADE", "train", ("many trees",)),
        Example(second, "MADE", "train", ("trees",), question="river near the beach"),
    ]


def tasked(checkpoint: Path, data: Path, **settings: object) -> tuple[Backbone, PeftModel]:
    recipe = recipe_for(
        *(checkpoint, data, data / "none"),
        **{"method": "multitask", "rank": 4, "tasks": TASKS, "lora_targets": ["o_proj"]},
        **settings,
    )
    backbone = load_backbone(checkpoint, "fp32", device="cpu", for_training=True)
    model = add_method(backbone, recipe)
    randomise(model, "default", seed=3)
    return backbone, model


def moved(model: PeftModel, batch: dict) -> list[bool]:
    """Which tasks' own halves a step on the batch would move."""
    found = gradients(model, our_loss(model, batch))
    halves = [grad for name, grad in found.items() if "multitask_task_" in name]
    return (torch.stack([half.flatten(1).abs().amax(1) for half in halves]).amax(0) > 0).tolist()


def test_the_first_word_of_a_prompt_names_its_task() -> None:
    prompts = ["caption en", "describe en", prompt_of("is there a river ?"), "detect trees", ""]
    assert [task_of(prompt) for prompt in prompts] == ["caption", "caption", "vqa", "detect", ""]


def test_each_row_trains_the_task_of_its_prompt(
    rows: list[Example], tiny_checkpoint: Path, data: Path
) -> None:
    _, model = tasked(tiny_checkpoint, data)
    assert moved(model, batch_of(tiny_checkpoint, rows)) == [False, True, True]
    assert moved(model, batch_of(tiny_checkpoint, rows[:1])) == [False, True, False]
    _, model = tasked(tiny_checkpoint, data, train_task="detect")
    assert moved(model, batch_of(tiny_checkpoint, rows)) == [True, False, False]


def test_each_row_is_answered_as_the_task_of_its_prompt(
    rows: list[Example], tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    backbone, model = tasked(tiny_checkpoint, data)
    pictures = [open_image(row.image) for row in rows]
    pixels = encode_images(backbone.processor, pictures)
    model.eval()

    def said(prompt: str, row: int, name: str) -> str:
        text = encode_text(backbone.processor, [prompt])
        tokens = model.generate(
            **text,
            pixel_values=pixels[row : row + 1],
            adapter_names=[name],
            do_sample=False,
            max_new_tokens=TOKENS,
        )
        return decode(backbone.processor, tokens[:, text["input_ids"].shape[1] :])[0]

    prompts = [prompt_of(row.question) for row in rows]
    due = [said(prompts[0], 0, "default/caption"), said(prompts[1], 1, "default/vqa")]
    assert greedy(backbone, model, pictures, prompts, TOKENS) == due
    # what is none of the tasks is answered as the first
    assert greedy(backbone, model, pictures[:1], "describe", TOKENS) == [
        said("describe", 0, "default/caption")
    ]
    other = said("ocr", 0, "default/detect")
    assert greedy(backbone, model, pictures[:1], "ocr", TOKENS) == [other]
    assert len({*due, other, said(prompts[0], 0, "default/vqa")}) > 2

    model.save_pretrained(tmp_path)  # and in a pane
    plain = load_backbone(tiny_checkpoint, "fp32", device="cpu")
    loaded = load_adapter(plain, tmp_path, "pane_one")
    assert loaded.mixes
    assert greedy(plain, loaded.model, pictures, prompts, TOKENS) == due


def test_one_task_of_several_must_be_named_for_samples(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    settings = {"method": "multitask", "tasks": TASKS, "objective": "cider"}
    with pytest.raises(TrainingError, match="name it by --train-task"):
        train(recipe_for(tiny_checkpoint, data, tmp_path / "out", **settings))
