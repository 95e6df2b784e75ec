"""What a recipe trains and saves: an adapter on a frozen base, or all of the base."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

from qvla.methods.recipe import Recipe, TrainingError
from qvla.models.adapter_files import read_adapter
from qvla.models.adapter_filling import fill
from qvla.models.backbone import Backbone, load_backbone
from qvla.models.families import family_of
from qvla.planning.trainable import Skeleton

Trained = PeftModel | PreTrainedModel
# Settings of an adapter that may differ between a run and the one that it starts from.
FREE = {
    *("inference_mode", "base_model_name_or_path", "revision", "peft_version", "auto_mapping"),
    *("task_type", "dropout", "lora_dropout", "init_std", "task"),
}


def adapter_config(config: PreTrainedConfig, recipe: Recipe) -> PeftConfig | None:
    """The recipe's adapter for a base of that configuration, in PEFT's terms; None for full
    fine-tuning. Raises QvlaError for an adapter that cannot be.
    """
    return recipe.kind.method.config(recipe, family_of(config).places(config))


def stand_in(config: PreTrainedConfig, recipe: Recipe) -> Skeleton:
    """The model as the recipe would train it, on the meta device: shapes without memory.

    Raises TrainingError for decoder layers or targets that this base does not have, and what
    `adapter_config` raises.
    """
    skeleton = Skeleton(config)
    skeleton.train(recipe.kind.method, recipe)
    return skeleton


def load_base(recipe: Recipe) -> Backbone:
    """The base that a recipe trains on; raises BackboneError.

    Under autocast NF4 computes in bfloat16 too, so that the layers hand on one type.
    """
    return load_backbone(
        recipe.model,
        recipe.base_precision,
        device=recipe.device,
        for_training=True,
        compute=torch.bfloat16 if recipe.bf16 else None,
    )


def add_method(backbone: Backbone, recipe: Recipe) -> Trained:
    """The model ready to be trained: what the method trains in float32, everything else frozen."""
    adapter = adapter_config(backbone.model.config, recipe)
    if adapter is None:
        return backbone.model.requires_grad_(True)
    model = get_peft_model(backbone.model, adapter)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def check_start(config: PreTrainedConfig, recipe: Recipe) -> None:
    """Raises TrainingError when the adapter to start from is not of the recipe's shape, and
    AdapterError when it is no whole adapter.
    """
    start, adapter = recipe.start_from, adapter_config(config, recipe)
    assert start is not None and adapter is not None  # the recipe has seen to it
    stored, asked = read_adapter(start).config.to_dict(), adapter.to_dict()
    if stored["peft_type"] != asked["peft_type"]:
        raise TrainingError(
            f"{recipe.start_from} is no adapter of the method {recipe.method}, so a run of it "
            "cannot start from there."
        )
    for name, value in asked.items():
        if name not in FREE and stored.get(name) != value:
            raise TrainingError(
                f"{recipe.start_from} has {name} {stored.get(name)} and the recipe comes to "
                f"{value}: a run that starts from it needs the same."
            )


def take_weights(model: PeftModel, folder: Path) -> None:
    """Puts a stored adapter's weights into the one to be trained; AdapterError when they do not
    fit this base.
    """
    fill(model, model.active_adapter, read_adapter(folder))


def save(model: Trained, processor: ProcessorMixin, recipe: Recipe, folder: Path) -> None:
    """What was trained and nothing else: a PEFT folder, or after full fine-tuning a checkpoint."""
    if isinstance(model, PeftModel):
        # A path of this machine would say nothing to whoever loads the adapter.
        model.peft_config[model.active_adapter].base_model_name_or_path = recipe.model_name
        model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's template, all blanks
    else:
        model.save_pretrained(str(folder))
        processor.save_pretrained(str(folder))
    for weights in folder.glob("*.safetensors"):
        weights.chmod(0o644)  # safetensors shuts others out
