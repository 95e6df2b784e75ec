"""Multi-task LoRA against a plain LoRA for each task, its halves side by side."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from qvla.methods.multitask import MultiTaskConfig
from qvla.methods.tuner import TunerError
from tests.support.adapted import load, logits, make_inputs, randomise

TARGETS = r".*language_model.*\.(q_proj|down_proj)"
TASKS = ["caption", "vqa", "detect"]
HALF, ALPHA = 4, 6.0


def tasked(checkpoint: Path, **options: object) -> PeftModel:
    config = MultiTaskConfig(
        r=HALF, lora_alpha=ALPHA, target_modules=TARGETS, tasks=TASKS, **options
    )
    model = get_peft_model(load(checkpoint), config)
    randomise(model, "default", seed=1)
    return model.eval()


def as_lora(model: PeftModel, checkpoint: Path, task: int) -> PeftModel:
    """A LoRA of PEFT's of both ranks together, with one task's weights."""
    config = LoraConfig(r=2 * HALF, lora_alpha=ALPHA, target_modules=TARGETS)
    plain = get_peft_model(load(checkpoint), config).eval()
    given = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            place, lora, matrix = name.partition(".lora_")
            if lora:
                kind, axis = matrix[0].lower(), 0 if matrix[0] == "A" else 1
                shared = given[f"{place}.multitask_{kind}.default"]
                own = given[f"{place}.multitask_task_{kind}.default"][task]
                parameter.copy_(torch.cat([shared, own], axis))
    return plain


def test_each_row_is_the_lora_of_its_task(tiny_checkpoint: Path) -> None:
    model = tasked(tiny_checkpoint)
    batch = make_inputs(tiny_checkpoint, 5)
    alone = [logits(as_lora(model, tiny_checkpoint, task), batch) for task in range(3)]
    base = logits(load(tiny_checkpoint), batch)
    names = ["default/detect", "default", "__base__", "default/vqa", "default/detect"]
    mixed = logits(model, batch, adapter_names=names)
    due = [alone[2][0], alone[0][1], base[2], alone[1][3], alone[2][4]]
    torch.testing.assert_close(mixed, torch.stack(due), rtol=0, atol=1e-4)
    torch.testing.assert_close(logits(model, batch), alone[0], rtol=0, atol=1e-4)
    assert (alone[0] - alone[1]).abs().max() > 0.05
    said = model.generate(**batch, max_new_tokens=4, do_sample=False, adapter_names=names)
    two = as_lora(model, tiny_checkpoint, 2).generate(**batch, max_new_tokens=4, do_sample=False)
    assert torch.equal(said[4], two[4]) and torch.equal(said[0], two[0])


def test_the_configured_task_is_that_of_rows_that_name_none(tiny_checkpoint: Path) -> None:
    batch = make_inputs(tiny_checkpoint, 1)
    told = logits(tasked(tiny_checkpoint, task="vqa"), batch)
    due = logits(tasked(tiny_checkpoint), batch, adapter_names=["default/vqa"])
    torch.testing.assert_close(told, due, rtol=0, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_mixed_step_moves_the_shared_half_and_each_row_its_own(
    checkpointing: bool, tiny_checkpoint: Path
) -> None:
    model, batch = tasked(tiny_checkpoint).train(), make_inputs(tiny_checkpoint, 2)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    names = ["default/caption", "default/detect"]
    model(**batch, adapter_names=names).logits.pow(2).mean().backward()
    for name, parameter in model.named_parameters():
        if "multitask_task" in name:
            moved = parameter.grad.flatten(1).abs().amax(1) > 0
            assert moved.tolist() == [True, False, True], name
        elif "multitask" in name:
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": []}, "1 to 64 different names"),
        ({"tasks": ["a", "a"]}, "1 to 64 different names"),
        ({"tasks": ["a/b"]}, "without a /"),
        ({"tasks": [str(number) for number in range(65)]}, "1 to 64"),
        ({"task": "vqa"}, "no task 'vqa': the tasks are caption"),
        ({"r": 0}, "rank of each half must be a whole number"),
        ({"target_modules": ["input_layernorm"]}, "input_layernorm is no projection"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, words: str, tiny_checkpoint: Path) -> None:
    with pytest.raises(TunerError, match=words):
        get_peft_model(
            load(tiny_checkpoint), MultiTaskConfig(**{"target_modules": TARGETS, **options})
        )


def test_unknown_tasks_and_deleted_adapters_are_told_of(tiny_checkpoint: Path) -> None:
    model = tasked(tiny_checkpoint)
    batch = make_inputs(tiny_checkpoint, 1)
    with pytest.raises(
        TunerError, match="no adapter 'default/sing': loaded are default, default/c"
    ):
        model(**batch, adapter_names=["default/sing"])
    model.add_adapter("other", MultiTaskConfig(r=2, target_modules=TARGETS))
    model.set_adapter("other")
    model.delete_adapter("default")
    assert torch.equal(logits(model, batch), logits(load(tiny_checkpoint), batch))  # B is zero
    tables = [one for one in model.modules() if isinstance(one, nn.ParameterDict)]
    assert tables and all(list(table) == ["other"] for table in tables)
