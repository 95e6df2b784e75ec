"""Each variant loaded alone, with Transformers and PEFT only: what the line-up is held against."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel, get_peft_model
from PIL import Image
from torch.nn import functional as F
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
)

from qvla.methods.bottleneck import BottleneckConfig
from qvla.models.backbone import Precision, computing_in
from tests.support.tiny import PROMPTS, WORDS

LENGTH = 8  # tokens: enough for captions to differ, and few for speed
# Logits of the tiny checkpoint spread by about 0.08, and bfloat16 moves them by about 0.001.
CLEAR = 0.01


@dataclass(frozen=True)
class Weights:
    """A checkpoint and adapters for it that say something else each."""

    model: Path
    adapter: Path
    other_adapter: Path
    nf4_adapter: Path
    other_nf4_adapter: Path


def make_weights(checkpoint: Path, folder: Path) -> Weights:
    # `train_norms` and another width in two of them, so that swapping changes more than numbers
    return Weights(
        checkpoint,
        save_adapter(checkpoint, folder / "first", seed=1),
        save_adapter(checkpoint, folder / "second", seed=2, reduction_factor=4, train_norms=True),
        save_adapter(checkpoint, folder / "third", seed=3, train_norms=True),
        save_adapter(checkpoint, folder / "fourth", seed=4, reduction_factor=8),
    )


def save_adapter(checkpoint: Path, folder: Path, *, seed: int, **options: Any) -> Path:
    """Saves an adapter of random weights, wide enough to change what is said."""
    torch.manual_seed(seed)
    model = get_peft_model(loaded(checkpoint), BottleneckConfig(init_std=0.5, **options))
    for name, parameter in model.named_parameters():
        if "bottleneck_norm" in name:
            parameter.data.normal_(0, 0.5)
    model.save_pretrained(folder)
    return folder


def load_alone(
    checkpoint: Path, adapter: Path | None = None, *, nf4: bool = False, int8: bool = False
) -> torch.nn.Module:
    model = loaded(checkpoint, nf4=nf4, int8=int8)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    return model.eval()


def loaded(checkpoint: Path, *, nf4: bool = False, int8: bool = False) -> Any:
    """A model of one's own; its files are read once in a process."""
    return copy.deepcopy(_read(checkpoint, stamp(checkpoint), nf4, int8))


@cache
def _read(checkpoint: Path, stamp: object, nf4: bool, int8: bool) -> torch.nn.Module:
    options: dict[str, Any] = {"dtype": torch.float32}
    if nf4 or int8:
        options = {"device_map": "cpu", "dtype": torch.bfloat16}
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    if nf4:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, **options)
    if nf4:
        if computing_in(Precision.NF4, torch.device("cpu")) is torch.float32:
            for layer in model.modules():
                if isinstance(layer, Linear4bit):
                    layer.compute_dtype = layer.weight.quant_state.dtype = torch.float32
            torch.nn.Module.float(model)
        round_rows(model.lm_head.weight.data)
        if not model.config.tie_word_embeddings:  # else it is the same table
            round_rows(model.get_input_embeddings().weight.data)
    return model


def round_rows(table: torch.Tensor) -> None:
    """Rounds each row, in place, to the 255 even steps about zero that 8 bits can tell apart.

    The steps are bfloat16 numbers, as checkpoints are loaded in that before they are quantised.
    """
    step = (table.abs().amax(1, keepdim=True).bfloat16() / 127).clamp(min=1e-30)
    table.copy_((table.float() / step.float()).round() * step.float())


class Said(NamedTuple):
    """An answer, its tokens with the end of text, by how much the closest choice was won, and the
    mean logarithm of the tokens' probabilities.
    """

    text: str
    tokens: int
    margin: float
    log_probability: float


class Output(NamedTuple):
    """Generated tokens (1, T) without the prompt, and the logits (1, V) that chose each."""

    sequences: torch.Tensor
    logits: tuple[torch.Tensor, ...]


class Alone:
    """Captions one photo at a time, the way the family's model card shows.

    A model is loaded once in a process, and what it said is kept: suites ask for the same again.
    """

    def __init__(self, checkpoint: Path, adapter: Path | None = None, **held: bool) -> None:
        stamps = (stamp(checkpoint), None if adapter is None else stamp(adapter))
        self.model, self._outputs = _alone(checkpoint, adapter, stamps, **held)
        self.processor = processor_of(checkpoint)

    @classmethod
    def of(cls, model: torch.nn.Module, processor: Any) -> Alone:
        """A model that was loaded by hand."""
        made = cls.__new__(cls)
        made.model, made.processor, made._outputs = model, processor, {}
        return made

    @property
    def prompt(self) -> str:
        return PROMPTS[self.model.config.model_type]

    def _generate(self, photo: Image.Image, prompt: str | None = None, **options: Any) -> Output:
        text = prompt or self.prompt
        asked = (photo.size, photo.tobytes(), text, *sorted(options.items()))
        if asked not in self._outputs:
            self._outputs[asked] = self._generated(photo, text, options)
        return self._outputs[asked]

    def _generated(self, photo: Image.Image, text: str, options: dict[str, Any]) -> Output:
        inputs = self.processor(images=photo, text=text, return_tensors="pt")
        inputs.pop("labels", None)
        options = {"max_new_tokens": LENGTH, "do_sample": False, **options}
        with torch.no_grad():
            output = self.model.generate(
                **inputs, **options, output_logits=True, return_dict_in_generate=True
            )
        return Output(output.sequences[:, inputs["input_ids"].shape[1] :], output.logits)

    def text(self, photo: Image.Image, **options: Any) -> str:
        """What it says; `prompt` among the options is another than that for captions."""
        tokens = self._generate(photo, **options).sequences[0]
        return self.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()

    def said(self, photo: Image.Image, **options: Any) -> Said:
        """Its greedy answer, token by token."""
        output = self._generate(photo, **options)
        tokens = output.sequences[0]
        logits = torch.cat(output.logits).float()  # (T, V)
        best = logits.topk(2).values
        surprise = F.cross_entropy(logits, tokens).item()
        text = self.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return Said(text, len(tokens), (best[:, 0] - best[:, 1]).min().item(), -surprise)

    def likelihood(self, photo: Image.Image, text: str) -> float:
        """Logarithm of the probability of a whole text, over its number of tokens."""
        inputs = self.processor(images=photo, text=self.prompt, suffix=text, return_tensors="pt")
        answer = inputs.pop("labels")[:, :-1]  # without the end of text
        with torch.no_grad():
            logits = self.model(**inputs).logits[:, :-2].float()
        return -F.cross_entropy(logits.transpose(1, 2), answer[:, 1:]).item()

    def margin(self, photo: Image.Image) -> float:
        """By how much the closest of the greedy choices was won."""
        best = torch.cat(self._generate(photo).logits).float().topk(2).values  # (T, 2)
        return (best[:, 0] - best[:, 1]).min().item()


@cache
def _alone(
    checkpoint: Path, adapter: Path | None, stamps: object, **held: bool
) -> tuple[torch.nn.Module, dict[tuple, Output]]:
    return load_alone(checkpoint, adapter, **held), {}


def processor_of(checkpoint: Path) -> Any:
    """Read once in a process, which takes longer than a tiny model does; leave it as it is."""
    return _processor(checkpoint, stamp(checkpoint))


@cache
def _processor(checkpoint: Path, stamp: object) -> Any:
    return AutoProcessor.from_pretrained(checkpoint)


def stamp(folder: Path) -> tuple:
    """Tells a folder from the same with other files in it."""
    files = ((file.name, file.stat()) for file in sorted(Path(folder).iterdir()))
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in files)


def clear_photos(models: Iterable[Alone], count: int, margin: float = CLEAR) -> list[Image.Image]:
    """Photos on which no greedy choice of these models is a near tie.

    A batch rounds otherwise than a row alone does, which in bfloat16 can tip a near tie; what the
    tests ask is which weights answer.
    """
    models = list(models)
    candidates = photos(100)
    clear = (p for p in candidates if all(model.margin(p) > margin for model in models))
    return list(islice(clear, count))


def photos(count: int, *, seed: int = 0) -> list[Image.Image]:
    """Photos of coloured noise, each of another size."""
    draw = random.Random(seed)
    return [
        Image.frombytes("RGB", (24 + index, 40), draw.randbytes((24 + index) * 40 * 3))
        for index in range(count)
    ]


def word_tokens() -> range:
    """Token numbers of the tiny vocabulary's words."""
    return range(6, 6 + len(WORDS))
