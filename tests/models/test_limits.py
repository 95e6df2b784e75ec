"""Files made to freeze, fill or take over whoever loads them: one sentence each, at once."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qvla.errors import QvlaError
from qvla.models import limits
from qvla.models.adapters import AdapterError, load_adapter
from qvla.models.backbone import Backbone, load_backbone
from qvla.models.checkpoint import BackboneError
from tests.support.peft_zoo import make

CONFIG, ADAPTER = "config.json", "adapter_config.json"
CATASTROPHIC = "(" + "|".join(["([a-z_.0-9]+)*"] * 3) + ")*$(?!x)!"


def edited(**changes: Any) -> Callable[[Path], None]:
    """Changes values of the folder's own configuration; a name with __ goes into a part of it."""

    def edit(folder: Path) -> None:
        path = folder / (ADAPTER if (folder / ADAPTER).exists() else CONFIG)
        values = json.loads(path.read_text())
        for name, value in changes.items():
            part = values
            *parents, last = name.split("__")
            for parent in parents:
                part = part[parent]
            part[last] = value
        path.write_text(json.dumps(values))

    return edit


def deep(folder: Path) -> None:
    path = folder / (ADAPTER if (folder / ADAPTER).exists() else CONFIG)
    path.write_text('{"a":' * 100_000 + "1" + "}" * 100_000)


def many_tensors(folder: Path) -> None:
    name = "adapter_model.safetensors" if (folder / ADAPTER).exists() else "model.safetensors"
    save_file({f"t{n}": torch.zeros(1) for n in range(20_001)}, folder / name)


def as_float8(folder: Path) -> None:
    name = "adapter_model.safetensors" if (folder / ADAPTER).exists() else "model.safetensors"
    weights = load_file(folder / name)
    key = min(weights)
    weights[key] = weights[key].to(torch.float8_e4m3fn)
    save_file(weights, folder / name, metadata={"format": "pt"})


def with_code(file: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / file
        values = json.loads(path.read_text()) if path.exists() else {}
        values["auto_map"] = {"AutoProcessor": "run_me.Processor", "AutoConfig": "run_me.Config"}
        path.write_text(json.dumps(values))
        (folder / "run_me.py").write_text("raise SystemExit('it ran')")

    return edit


ADAPTERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "catastrophic pattern": (edited(target_modules=CATASTROPHIC), "takes too long to match"),
    "catastrophic rank pattern": (
        edited(rank_pattern={CATASTROPHIC: 8}),
        "takes too long to match",
    ),
    "no pattern at all": (edited(target_modules="(("), "a pattern that is none"),
    "a pattern of megabytes": (edited(target_modules="a" * 10**6), "too long"),
    "a list of methods": (edited(peft_type=["LORA"]), "unknown method"),
    "no method": (edited(peft_type=None), "unknown method"),
    "a rank of a million": (edited(r=10**6), "which none of its weights has"),
    "a rank of a trillion": (edited(r=10**12), "beyond the"),
    "nested JSON": (deep, "damaged adapter_config.json"),
    "many tensors": (many_tensors, "20,001 tensors"),
    "float8": (as_float8, "as F8_E4M3"),
}
OWN_METHODS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a prefix of a million": (
        *("prefix", edited(num_virtual_tokens=10**6)),
        "num_virtual_tokens of 1000000, which none of its weights has",
    ),
    "a prefix in a layer beyond": ("prefix", edited(layers=[0, 10**6]), "no decoder layer 1000000"),
    "a million tasks": ("multi-task", edited(tasks=list(map(str, range(10**5)))), "1 to 64"),
    "halves of a rank of a million": ("multi-task", edited(r=10**6), "which none of its weights"),
    "maps of a rank of a million": ("cross-modal", edited(r=10**6), "which none of its weights"),
}
CHECKPOINTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "code in its configuration": (with_code(CONFIG), "never done here"),
    "code in its processor": (with_code("processor_config.json"), "never done here"),
    "code in its tokeniser": (with_code("tokenizer_config.json"), "never done here"),
    "a million layers": (edited(text_config__num_hidden_layers=10**6), "num_hidden_layers"),
    "a million layers of sight": (edited(vision_config__num_hidden_layers=10**6), "num_hidden"),
    "a million heads": (edited(text_config__num_attention_heads=10**6), "num_attention_heads"),
    "a vocabulary without end": (edited(text_config__vocab_size=2**40), "vocab_size"),
    "a photo of a million pixels a side": (edited(vision_config__image_size=10**6), "image_size"),
    "nested JSON": (deep, "damaged config.json"),
    "many tensors": (many_tensors, "20,001 tensors"),
    "float8": (as_float8, "as F8_E4M3"),
}


@pytest.fixture(scope="module")
def backbone(tiny_checkpoint: Path) -> Backbone:
    return load_backbone(tiny_checkpoint, "fp32", device="cpu")


@pytest.fixture(scope="module")
def adapter(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("lora in the decoder", tiny_checkpoint, tmp_path_factory.mktemp("lora") / "good")


def told(error: QvlaError) -> str:
    sentence = str(error)
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 600
    return sentence


@pytest.mark.parametrize("case", ADAPTERS)
def test_a_hostile_adapter_is_one_sentence(
    backbone: Backbone,
    adapter: Path,
    tmp_path: Path,
    case: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad = Path(shutil.copytree(adapter, tmp_path / "bad"))
    spoil, reason = ADAPTERS[case]
    spoil(bad)
    if "too long to match" in reason:  # which takes for ever, so the limit may come sooner
        monkeypatch.setattr(limits, "PATTERN_SECONDS", 1.0)
    with pytest.raises(AdapterError) as caught:
        load_adapter(backbone, bad, "caption")
    assert reason in told(caught.value)


@pytest.fixture(scope="module")
def own(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("own")
    names = ("prefix", "bitfit", "multi-task", "cross-modal")
    return {name: make(name, tiny_checkpoint, root / name) for name in names}


@pytest.mark.parametrize("case", OWN_METHODS)
def test_a_hostile_adapter_of_our_own_methods_is_one_sentence(
    backbone: Backbone, own: dict[str, Path], tmp_path: Path, case: str
) -> None:
    name, spoil, reason = OWN_METHODS[case]
    bad = Path(shutil.copytree(own[name], tmp_path / "bad"))
    spoil(bad)
    with pytest.raises(AdapterError) as caught:
        load_adapter(backbone, bad, "caption")
    assert reason in told(caught.value)


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_hostile_checkpoint_is_one_sentence(
    tiny_checkpoint: Path, tmp_path: Path, case: str
) -> None:
    bad = Path(shutil.copytree(tiny_checkpoint, tmp_path / "bad"))
    spoil, reason = CHECKPOINTS[case]
    spoil(bad)
    with pytest.raises(BackboneError) as caught:
        load_backbone(bad, "fp32", device="cpu")
    assert reason in told(caught.value)


ODD = (None, True, -1, 0, 10**9, 10**400, 1.5, "", "x" * 5000, "\x00", [], [1], {}, {"a": {}})


def test_our_own_configurations_with_an_odd_value_each(
    backbone: Backbone, own: dict[str, Path], tmp_path: Path
) -> None:
    draw = random.Random(0)
    every = json.loads((own["bitfit"] / ADAPTER).read_text())  # which has one of its own
    del every["target_modules"]
    for folder in own.values():
        values = json.loads((folder / ADAPTER).read_text())
        for key in sorted(values.keys() - every.keys()):
            bad = Path(shutil.copytree(folder, tmp_path / "bad", dirs_exist_ok=True))
            text = json.dumps({**values, key: draw.choice([odd for odd in ODD if odd != 10**400])})
            (bad / ADAPTER).write_text(text)
            try:
                load_adapter(backbone, bad, "caption")
            except QvlaError as error:
                told(error)


@pytest.mark.slow
def test_a_hundred_configurations_with_an_odd_value_each(
    tiny_checkpoint: Path, backbone: Backbone, adapter: Path, tmp_path: Path
) -> None:
    """Each loads, or says in a sentence why not: nothing else, whatever stands where."""
    draw = random.Random(0)
    for number in range(100):
        is_adapter = number % 2 == 0
        good = adapter if is_adapter else tiny_checkpoint
        bad = Path(shutil.copytree(good, tmp_path / str(number)))
        path = bad / (ADAPTER if is_adapter else CONFIG)
        values = json.loads(path.read_text())
        part = values
        while True:
            key = draw.choice(sorted(part))
            if not isinstance(part[key], dict) or not part[key] or draw.random() < 0.2:
                break
            part = part[key]
        part[key] = draw.choice(ODD)
        path.write_text(json.dumps(values) if part[key] != 10**400 else "{}")
        try:
            if is_adapter:
                load_adapter(backbone, bad, "caption")
            else:
                load_backbone(bad, "fp32", device="cpu")
        except QvlaError as error:
            told(error)
        shutil.rmtree(bad)
