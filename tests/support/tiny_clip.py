"""A tiny CLIP of random weights, saved as a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
)

SIZE, PATCH, WIDTH = 32, 4, 16


def build_tiny_clip(folder: Path) -> Path:
    """A CLIP whose tokens are letters, in a folder that is made if need be."""
    folder.mkdir(exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: place for place, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    part = {
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 8,
        "initializer_factor": 5.0,
    }
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            text_config={**part, "vocab_size": len(words), "max_position_embeddings": 40, **ends},
            vision_config={**part, "image_size": SIZE, "patch_size": PATCH},
            projection_dim=8,
        )
    )
    model.save_pretrained(folder)
    sized = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    CLIPProcessor(CLIPImageProcessorPil(**sized), tokenizer).save_pretrained(folder)
    return folder
