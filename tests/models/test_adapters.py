"""Attaching adapters: what fits answers as PEFT alone does, what does not fit changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, PromptTuningConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file

from qvla.captioning.prompts import encode_images, encode_text
from qvla.methods.bottleneck import BottleneckConfig
from qvla.models import adapter_filling
from qvla.models.adapters import AdapterError, join, load_adapter
from qvla.models.backbone import Backbone, Precision, load_backbone
from tests.support.tiny import build_tiny

METHODS = {
    "bottleneck": BottleneckConfig(reduction_factor=8, init_std=0.5),
    "bottleneck with norms": BottleneckConfig(reduction_factor=8, init_std=0.5, train_norms=True),
    "lora": LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False),
}
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def load(folder: Path, precision: Precision = Precision.FP32) -> Backbone:
    return load_backbone(folder, precision, device="cpu")


def make(base: Path, folder: Path, config: PeftConfig, seed: int = 0) -> Path:
    """An adapter of random weights in a folder."""
    torch.manual_seed(seed)
    get_peft_model(load(base).model, config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: make(tiny_checkpoint, folder / name, config) for name, config in METHODS.items()
    } | {"other": make(tiny_checkpoint, folder / "other", METHODS["bottleneck"], seed=1)}


@pytest.fixture(scope="module")
def whole(tiny_checkpoint: Path) -> Backbone:
    """For adapters that are refused, which leave it as it is: `refusal` looks."""
    return load(tiny_checkpoint)


def logits(backbone: Backbone, model: torch.nn.Module | None = None) -> torch.Tensor:
    """Of the backbone, or of a view over it."""
    model = backbone.model if model is None else model
    image = Image.linear_gradient("L").convert("RGB")
    pixels = encode_images(backbone.processor, [image]).to(backbone.model.dtype)
    with torch.no_grad():
        text = encode_text(backbone.processor, ["caption en"])
        return model(**text, pixel_values=pixels).logits


def state(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in backbone.model.named_parameters()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


# A float precision is as good as another, and each way of quantising is tried with one that mixes
# and with one that does not.
SLOW = [
    *(("bottleneck", one) for one in (Precision.BF16, Precision.FP16)),
    *(("bottleneck with norms", one) for one in Precision if one is not Precision.BF16),
    *(("lora", one) for one in (Precision.BF16, Precision.FP32)),
]


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] if case in SLOW else [])
        for case in product(METHODS, Precision)
    ],
)
def test_an_adapter_answers_as_with_peft_alone(
    tiny_checkpoint: Path, made: dict[str, Path], method: str, precision: Precision
) -> None:
    backbone, alone = load(tiny_checkpoint, precision), load(tiny_checkpoint, precision)
    before = logits(backbone)
    adapter = load_adapter(backbone, made[method], "caption")
    alone.model = PeftModel.from_pretrained(alone.model, made[method], adapter_name="caption")
    after = logits(backbone, adapter.model)
    assert torch.equal(after, logits(alone))
    assert not torch.equal(after, before)
    assert torch.equal(logits(backbone), before)  # the base stands beside it
    assert not adapter.model.training
    assert not any(parameter.requires_grad for parameter in adapter.model.parameters())
    assert adapter.own_bytes == sum(t.nbytes for t in load_file(made[method] / WEIGHTS).values())
    # LoRA by plain names is in the vision tower as well, whose projections have the same names.
    assert adapter.mixes == (method != "lora") == (not adapter.changes_sight)


@pytest.mark.parametrize("precision", list(Precision))
def test_joining_and_leaving(
    tiny_checkpoint: Path, made: dict[str, Path], precision: Precision
) -> None:
    backbone = load(tiny_checkpoint, precision)
    first = load_adapter(backbone, made["bottleneck"], "caption")
    second = load_adapter(backbone, made["other"], "other")
    due = logits(backbone, second.model)
    before = logits(backbone, first.model)
    assert not torch.equal(before, due)
    join(first.model, second, "other")
    assert torch.equal(logits(backbone, first.model), before)  # the first stays the active one
    first.model.set_adapter("other")
    assert torch.equal(logits(backbone, first.model), due)
    first.model.delete_adapter("other")
    first.model.set_adapter("caption")
    assert torch.equal(logits(backbone, first.model), before)


def refusal(backbone: Backbone, folder: Path | str, name: str = "caption") -> str:
    """The sentence with which an adapter is refused, having checked that nothing changed."""
    before, weights = logits(backbone), state(backbone)
    modules = [(name, id(module)) for name, module in backbone.model.named_modules()]
    with pytest.raises(AdapterError) as caught:
        load_adapter(backbone, folder, name)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and 20 < len(sentence) < 450
    assert same(state(backbone), weights)
    assert [(name, id(module)) for name, module in backbone.model.named_modules()] == modules
    assert torch.equal(logits(backbone), before)
    return sentence


def edit_config(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        values = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**values, **changes}))

    return edit


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS)

    return edit


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


def cut(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:50])


def first_to_nan(weights: dict[str, torch.Tensor]) -> None:
    weights[min(weights)].view(-1)[0] = float("nan")


BROKEN = {
    "no configuration": (lambda folder: (folder / CONFIG).unlink(), "is not an adapter"),
    "damaged configuration": (cut(CONFIG), "damaged adapter_config.json"),
    "unknown method": (edit_config(peft_type="MAGIC"), "unknown method, 'MAGIC'"),
    "impossible option": (edit_config(reduction_factor=0), "reduction factor"),
    "too many layers": (edit_config(layers=[0, 7]), "no decoder layer 7"),
    "another width": (edit_config(reduction_factor=16), "of another size"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "no adapter_model.safetensors"),
    "pickles only": (pickled, "pickle"),
    "truncated weights": (cut(WEIGHTS), "damaged or truncated"),
    "a weight missing": (edit_weights(lambda weights: weights.pop(min(weights))), "lacks weights"),
    "an unknown weight": (
        edit_weights(lambda weights: weights.update(extra=torch.zeros(2))),
        "unknown weights",
    ),
    "not a number": (edit_weights(first_to_nan), "no finite numbers"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_bad_adapter_changes_nothing(
    whole: Backbone, made: dict[str, Path], tmp_path: Path, case: str
) -> None:
    bad = Path(shutil.copytree(made["other"], tmp_path / "bad"))
    damage, reason = BROKEN[case]
    damage(bad)
    assert reason in refusal(whole, bad)


def test_an_adapter_of_another_model_is_refused(
    whole: Backbone, tiny_checkpoint: Path, made: dict[str, Path], tmp_path: Path
) -> None:
    wide = build_tiny(tmp_path / "wide", hidden=128)
    adapter = make(wide, tmp_path / "adapter", BottleneckConfig(reduction_factor=8))
    assert "of another size" in refusal(whole, adapter)
    lora = make(wide, tmp_path / "lora", METHODS["lora"])
    assert "of another size" in refusal(load(tiny_checkpoint, Precision.NF4), lora)
    elsewhere = LoraConfig(target_modules=["query"])
    shutil.copytree(made["lora"], tmp_path / "elsewhere")
    elsewhere.save_pretrained(tmp_path / "elsewhere")
    assert "does not fit" in refusal(whole, tmp_path / "elsewhere")


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_that_alters_the_base_is_refused(
    whole: Backbone, made: dict[str, Path], tmp_path: Path, start: str
) -> None:
    bad = Path(shutil.copytree(made["lora"], tmp_path / "bad"))
    edit_config(init_lora_weights=start)(bad)
    assert f"was started by {start}, which alters the base" in refusal(whole, bad)


def test_prompts_are_refused_by_name(
    whole: Backbone, made: dict[str, Path], tmp_path: Path
) -> None:
    bad = Path(shutil.copytree(made["lora"], tmp_path / "bad"))
    PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4).save_pretrained(bad)
    assert "of the method prompt tuning, which changes the prompt" in refusal(whole, bad)


def test_names_that_cannot_be_had(whole: Backbone, made: dict[str, Path]) -> None:
    for name in ("down", "a.b", "embed_tokens"):
        refusal(whole, made["bottleneck"], name)


def test_a_model_or_nothing_is_no_adapter(
    whole: Backbone, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    assert "is not an adapter" in refusal(whole, tiny_checkpoint)
    assert "There is no folder" in refusal(whole, tmp_path / "missing")


@pytest.mark.parametrize("place", ["alone", "beside"])
def test_memory_that_runs_out_half_way_changes_nothing(
    tiny_checkpoint: Path, made: dict[str, Path], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load(tiny_checkpoint)
    first = load_adapter(backbone, made["bottleneck"], "caption")
    other = load_adapter(backbone, made["other"], "other")
    before = logits(backbone, first.model)
    keys = {name for name, _ in first.model.named_parameters()}
    with monkeypatch.context() as patch:

        def run_out(*args: object, **options: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        patch.setattr(adapter_filling, "set_peft_model_state_dict", run_out)
        if place == "alone":
            assert "not enough memory" in refusal(backbone, made["other"])
        else:
            with pytest.raises(AdapterError, match="not enough memory"):
                join(first.model, other, "other")
    assert {name for name, _ in first.model.named_parameters()} == keys
    assert torch.equal(logits(backbone, first.model), before)
    join(first.model, other, "other")
    first.model.set_adapter("other")
    assert torch.equal(logits(backbone, first.model), logits(backbone, other.model))
