"""Whether a model overflows float16, which ends at 65,504 where bfloat16 goes as far as float32.

Models that were trained in bfloat16 may have larger activations: of Gemma 3 it is known
(huggingface/transformers issue 36822), of the Gemma in PaliGemma it depends on the checkpoint. So
each is asked once about a photo, and every module's output is looked at.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import torch

from qvla.captioning.prompts import encode_images, encode_text
from qvla.data.examples import read_examples
from qvla.data.imagery import open_image
from qvla.models.backbone import Backbone
from qvla.settings import ASSETS

OVERFLOWED = "in float32, as it overflows float16"
TOKENS = 4  # of the answer: the photo and prompt, and some steps with a cache


def overflows_at(backbone: Backbone) -> str | None:
    """The first module of a float16 model that hands on what is no finite number while it answers
    about a photo; None where none does, and of models that compute in another type.
    """
    model: Any = backbone.model
    if model.dtype is not torch.float16:
        return None
    family, processor = backbone.family, backbone.processor
    names: list[str] = []
    faults: list[torch.Tensor] = []

    def look(name: str) -> Any:
        def hook(module: object, given: object, output: object) -> None:
            for tensor in _floats(output):
                names.append(name)
                faults.append(~torch.isfinite(tensor).all())

        return hook

    hooks = [
        module.register_forward_hook(look(name or "the logits"))
        for name, module in model.named_modules()
    ]
    try:
        with torch.inference_mode():
            photo = open_image(read_examples(ASSETS / "examples")[0].image)
            pixels = encode_images(processor, [photo]).to(backbone.device)
            seen = family.image_features(model, pixels)
            prompt = encode_text(processor, [family.usual_prompt]).to(backbone.device)
            family.generate(model, prompt, seen, do_sample=False, max_new_tokens=TOKENS)
    finally:
        for hook in hooks:
            hook.remove()
    found = torch.stack(faults).nonzero().flatten().tolist()
    return names[found[0]] if found else None


def give_back(device: str) -> None:
    """Returns to the device what a model held that is no longer used."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def _floats(output: object) -> Iterator[torch.Tensor]:
    """The floating tensors of what a module returns, one level deep."""
    if isinstance(output, torch.Tensor):
        output = (output,)
    elif isinstance(output, dict):
        output = tuple(output.values())
    for part in output if isinstance(output, (tuple, list)) else ():
        if isinstance(part, torch.Tensor) and part.is_floating_point():
            yield part
