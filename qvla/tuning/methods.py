"""What each fine-tune method trains and saves: an adapter on a frozen base, or all of the base."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from qvla.methods.bottleneck import BottleneckConfig
from qvla.methods.recipe import Recipe, TrainingError
from qvla.models.backbone import Backbone

Trained = PeftModel | PaliGemmaForConditionalGeneration
BOTTLENECK = ("adapter", "qvla")
LORA = ("lora", "qlora")


def adapter_config(recipe: Recipe) -> PeftConfig | None:
    """The recipe's adapter in PEFT's terms, None for full fine-tuning.

    Raises BottleneckError for a bottleneck that cannot be.
    """
    if recipe.method in BOTTLENECK:
        return BottleneckConfig(
            reduction_factor=recipe.reduction_factor,
            activation=recipe.activation,
            layers=recipe.layers,
            sites=recipe.sites,
            dropout=recipe.dropout,
            train_norms=recipe.train_norms,
        )
    if recipe.method in LORA:
        return LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.lora_alpha,
            lora_dropout=recipe.dropout,
            target_modules=_decoder_projections(recipe),
        )
    return None


def check_against(config: PaliGemmaConfig, recipe: Recipe) -> None:
    """Raises TrainingError for decoder layers or projections that this base does not have."""
    depth = config.text_config.num_hidden_layers
    beyond = [layer for layer in recipe.layers or () if not 0 <= layer < depth]
    if beyond:
        raise TrainingError(
            f"The base has decoder layers 0 to {depth - 1}, so the recipe cannot name layer "
            f"{beyond[0]}."
        )
    if recipe.method in LORA:
        with torch.device("meta"):
            model = PaliGemmaForConditionalGeneration(config)
        known = {
            name.rpartition(".")[2]
            for name, module in model.model.language_model.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        for target in recipe.lora_targets:
            if target not in known:
                raise TrainingError(
                    f"The decoder has no projection {target!r} for LoRA: choose among "
                    f"{', '.join(sorted(known))}."
                )


def add_method(backbone: Backbone, recipe: Recipe) -> Trained:
    """The model ready to be trained: what the method trains in float32, everything else frozen."""
    config = adapter_config(recipe)
    if config is None:
        model = backbone.model.requires_grad_(True)
    else:
        model = get_peft_model(backbone.model, config)
    for parameter in model.parameters():
        if parameter.requires_grad and config is not None:
            parameter.data = parameter.data.float()
    return model


def save(model: Trained, processor: PaliGemmaProcessor, recipe: Recipe, folder: Path) -> None:
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


def _decoder_projections(recipe: Recipe) -> str:
    """A pattern of module names: PEFT would else find SigLIP's projections of the same names."""
    names = "|".join(map(re.escape, recipe.lora_targets))
    layer = r"\d+" if recipe.layers is None else "|".join(map(str, recipe.layers))
    return rf".*language_model\.layers\.(?:{layer})\.(?:self_attn|mlp)\.(?:{names})"
