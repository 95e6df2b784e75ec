"""Attaching adapters: what fits answers as PEFT alone does, what does not fit changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file

from qvla.captioning.prompts import encode_images, encode_text
from qvla.methods.bottleneck import BottleneckConfig
from qvla.models import adapters
from qvla.models.adapters import AdapterError, attach_adapter
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


def logits(backbone: Backbone) -> torch.Tensor:
    image = Image.linear_gradient("L").convert("RGB")
    pixels = encode_images(backbone.processor, [image]).to(backbone.model.dtype)
    with torch.no_grad():
        text = encode_text(backbone.processor, ["caption en"])
        return backbone.model(**text, pixel_values=pixels).logits


def state(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in backbone.model.named_parameters()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("method", METHODS)
def test_an_attached_adapter_answers_as_with_peft_alone(
    tiny_checkpoint: Path, made: dict[str, Path], method: str, precision: Precision
) -> None:
    backbone, alone = load(tiny_checkpoint, precision), load(tiny_checkpoint, precision)
    before = logits(backbone)
    attach_adapter(backbone, made[method], "caption")
    alone.model = PeftModel.from_pretrained(alone.model, made[method], adapter_name="caption")
    after = logits(backbone)
    assert torch.equal(after, logits(alone))
    assert not torch.equal(after, before)
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    with backbone.model.disable_adapter():
        assert torch.equal(logits(backbone), before)


@pytest.mark.parametrize("precision", list(Precision))
def test_replacing_and_joining(
    tiny_checkpoint: Path, made: dict[str, Path], precision: Precision
) -> None:
    backbone = load(tiny_checkpoint, precision)
    attach_adapter(backbone, made["bottleneck"], "caption")
    first = logits(backbone)
    attach_adapter(backbone, made["other"], "other")
    assert torch.equal(logits(backbone), first)  # the first stays the active one
    backbone.model.set_adapter("other")
    second = logits(backbone)
    assert not torch.equal(first, second)
    attach_adapter(backbone, made["bottleneck"], "other")
    assert torch.equal(logits(backbone), first)
    attach_adapter(backbone, made["other"], "caption")
    backbone.model.set_adapter("caption")
    assert torch.equal(logits(backbone), second)
    assert set(backbone.model.peft_config) == {"caption", "other"}


def test_the_only_adapter_can_be_replaced(tiny_checkpoint: Path, made: dict[str, Path]) -> None:
    backbone, due = load(tiny_checkpoint), load(tiny_checkpoint)
    attach_adapter(backbone, made["bottleneck"], "caption")
    attach_adapter(backbone, made["bottleneck with norms"], "caption")
    attach_adapter(due, made["bottleneck with norms"], "caption")
    assert torch.equal(logits(backbone), logits(due))
    attach_adapter(backbone, made["other"], "caption")
    fresh = load(tiny_checkpoint)
    attach_adapter(fresh, made["other"], "caption")
    assert torch.equal(logits(backbone), logits(fresh))


def refusal(backbone: Backbone, folder: Path | str, name: str = "caption") -> str:
    """The sentence with which an adapter is refused, having checked that nothing changed."""
    before, weights, modules = (
        logits(backbone),
        state(backbone),
        list(backbone.model.named_modules()),
    )
    wrapped = isinstance(backbone.model, PeftModel)
    active = backbone.model.active_adapters if wrapped else None
    with pytest.raises(AdapterError) as caught:
        attach_adapter(backbone, folder, name)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and 20 < len(sentence) < 450
    assert isinstance(backbone.model, PeftModel) == wrapped
    assert same(state(backbone), weights)
    assert [n for n, _ in backbone.model.named_modules()] == [n for n, _ in modules]
    assert torch.equal(logits(backbone), before)
    assert not wrapped or backbone.model.active_adapters == active
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
    tiny_checkpoint: Path, made: dict[str, Path], tmp_path: Path, case: str
) -> None:
    bad = Path(shutil.copytree(made["other"], tmp_path / "bad"))
    damage, reason = BROKEN[case]
    damage(bad)
    backbone = load(tiny_checkpoint)
    assert reason in refusal(backbone, bad)  # as the first adapter
    attach_adapter(backbone, made["bottleneck"], "caption")
    assert reason in refusal(backbone, bad)  # in place of one
    assert reason in refusal(backbone, bad, "another")  # beside one


def test_an_adapter_of_another_model_is_refused(
    tiny_checkpoint: Path, made: dict[str, Path], tmp_path: Path
) -> None:
    wide = build_tiny(tmp_path / "wide", hidden=128)
    adapter = make(wide, tmp_path / "adapter", BottleneckConfig(reduction_factor=8))
    assert "of another size" in refusal(load(tiny_checkpoint), adapter)
    lora = make(wide, tmp_path / "lora", METHODS["lora"])
    assert "of another size" in refusal(load(tiny_checkpoint, Precision.NF4), lora)
    elsewhere = LoraConfig(target_modules=["query"])
    shutil.copytree(made["lora"], tmp_path / "elsewhere")
    elsewhere.save_pretrained(tmp_path / "elsewhere")
    assert "does not fit" in refusal(load(tiny_checkpoint), tmp_path / "elsewhere")


def test_methods_cannot_be_mixed(tiny_checkpoint: Path, made: dict[str, Path]) -> None:
    backbone = load(tiny_checkpoint)
    attach_adapter(backbone, made["bottleneck"], "caption")
    assert "cannot be mixed" in refusal(backbone, made["lora"], "other")
    assert "cannot be mixed" in refusal(backbone, made["lora"])


@pytest.mark.parametrize("change", [{"bias": "all"}, {"init_lora_weights": "pissa"}])
def test_adapters_that_change_the_base_are_refused(
    tiny_checkpoint: Path, made: dict[str, Path], tmp_path: Path, change: dict[str, str]
) -> None:
    bad = Path(shutil.copytree(made["lora"], tmp_path / "bad"))
    edit_config(**change)(bad)
    assert "not supported" in refusal(load(tiny_checkpoint), bad)


def test_names_that_cannot_be_had(tiny_checkpoint: Path, made: dict[str, Path]) -> None:
    for name in ("down", "a.b", "embed_tokens"):
        refusal(load(tiny_checkpoint), made["bottleneck"], name)


def test_a_model_or_nothing_is_no_adapter(tiny_checkpoint: Path, tmp_path: Path) -> None:
    backbone = load(tiny_checkpoint)
    assert "is not an adapter" in refusal(backbone, tiny_checkpoint)
    assert "There is no folder" in refusal(backbone, tmp_path / "missing")


@pytest.mark.parametrize("place", ["first", "instead", "beside"])
def test_memory_that_runs_out_half_way_changes_nothing(
    tiny_checkpoint: Path,
    made: dict[str, Path],
    place: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = load(tiny_checkpoint)
    if place != "first":
        attach_adapter(backbone, made["bottleneck"], "caption")
    fill, calls = adapters.set_peft_model_state_dict, []

    def run_out_once(*args: object, **options: object) -> object:
        calls.append(args)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return fill(*args, **options)

    monkeypatch.setattr(adapters, "set_peft_model_state_dict", run_out_once)
    name = "another" if place == "beside" else "caption"
    assert "not enough memory" in refusal(backbone, made["other"], name)
    attach_adapter(backbone, made["other"], name)
    backbone.model.set_adapter(name)
    due = load(tiny_checkpoint)
    attach_adapter(due, made["other"], "caption")
    assert torch.equal(logits(backbone), logits(due))
