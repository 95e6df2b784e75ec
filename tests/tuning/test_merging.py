"""`qvla merge`: merged answers are those of base and adapter, and nothing is written otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from qvla.models import merging as weights
from qvla.models.adapters import AdapterError
from qvla.models.backbone import load_backbone
from qvla.models.merging import MergeError
from qvla.settings import ASSETS
from qvla.tuning.merging import merge
from tests.support import peft_zoo
from tests.support.alone import Alone
from tests.support.tiny import build_tiny

# Each of these takes about a second. That every method merges, test_registry.py shows.
MERGED_ALWAYS = ("dora", "oft", "bitfit", "lora on the head")
MERGED_SLOWLY = (
    *("adalora", "vera", "ia3"),
    *("lora in the vision tower", "lora in the projector", "lora by plain names", "loha", "lokr"),
    *("lora on all linear layers", "rslora", "lora with trained biases", "lora and a whole layer"),
    *("lora and the whole head", "lora and trainable tokens", "lora on the embedding", "boft"),
    *("ia3 by plain names", "ln tuning"),
)


@pytest.fixture(scope="module")
def lora(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return peft_zoo.make(
        "lora in the decoder", tiny_checkpoint, tmp_path_factory.mktemp("lora") / "lora"
    )


def photo() -> Image.Image:
    return Image.open(ASSETS / "examples" / "resized" / "airplane.jpg")


@pytest.mark.parametrize(
    "name",
    [*MERGED_ALWAYS, *(pytest.param(name, marks=pytest.mark.slow) for name in MERGED_SLOWLY)],
)
def test_the_merged_checkpoint_answers_as_peft_does_with_the_adapter_beside(
    name: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    adapter = peft_zoo.make(name, tiny_checkpoint, tmp_path / "adapter")
    merged = merge(str(tiny_checkpoint), str(adapter), tmp_path / "out", device="cpu")
    alone, found = Alone(tiny_checkpoint, adapter), Alone(tmp_path / "out")
    inputs = alone.processor(images=photo(), text="<image>caption en", return_tensors="pt")
    inputs.pop("labels")
    with torch.no_grad():
        due = alone.model(**inputs).logits
        apart = (found.model(**inputs).logits - due).abs().max().item()
    allowed = max(1e-4, 2e-5 * due.abs().max().item())
    assert apart < allowed
    assert merged.proof.caption.startswith(alone.text(photo(), max_new_tokens=3))
    assert merged.proof.difference <= merged.proof.tolerance <= max(1e-4, 4 * allowed)
    assert merged.proof.adapter_moves > 0.1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "merge.json"),
        *("processor_config.json", "tokenizer.json", "tokenizer_config.json"),
    }
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert record["proof"] == merged.card()["proof"]
    assert (record["base"], record["adapter"]) == (tiny_checkpoint.name, "adapter")
    assert str(tmp_path) not in (tmp_path / "out" / "merge.json").read_text()


def test_an_adapter_trained_on_nf4_is_merged_into_what_its_base_stood_for(
    tiny_checkpoint: Path, lora: Path, tmp_path: Path
) -> None:
    trained = tmp_path / "qlora"
    trained.mkdir()
    for file in lora.iterdir():
        (trained / file.name).write_bytes(file.read_bytes())
    (trained / "run.json").write_text('{"recipe": {"method": "qlora"}}')
    with pytest.raises(MergeError, match=r"trained on its base in NF4.*--dequantise"):
        merge(str(tiny_checkpoint), str(trained), tmp_path / "out", device="cpu")
    plain = merge(
        str(tiny_checkpoint), str(trained), tmp_path / "plain", dequantise=False, device="cpu"
    )
    merged = merge(
        str(tiny_checkpoint), str(trained), tmp_path / "out", dequantise=True, device="cpu"
    )
    assert merged.dequantised and not plain.dequantised

    held = load_backbone(tiny_checkpoint, "nf4", device="cpu", embeddings="bf16", for_training=True)
    held.model.save_pretrained(tmp_path / "nf4")
    held.processor.save_pretrained(tmp_path / "nf4")
    with pytest.raises(MergeError, match=r"quantised to 4 bits.*--dequantise"):
        merge(str(tmp_path / "nf4"), str(lora), tmp_path / "again", device="cpu")
    again = merge(
        *(str(tmp_path / "nf4"), str(lora), tmp_path / "again"),
        **{"dequantise": True, "precision": "fp32", "device": "cpu"},
    )
    assert again.proof.caption == merged.proof.caption
    due = load_file(tmp_path / "out" / "model.safetensors")
    for name, weight in load_file(tmp_path / "again" / "model.safetensors").items():
        assert torch.equal(weight, due[name]), name


def test_bf16_is_written_when_asked_for_and_refused_when_it_loses_the_adapter(
    tiny_checkpoint: Path, lora: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    (small / "adapter_config.json").write_text((lora / "adapter_config.json").read_text())
    pairs = load_file(lora / "adapter_model.safetensors")
    save_file(
        {name: t * (1e-3 if "lora_B" in name else 1) for name, t in pairs.items()},
        small / "adapter_model.safetensors",
    )
    with pytest.raises(MergeError, match=r"differ by up to .* is allowed.*--precision fp32"):
        merge(str(tiny_checkpoint), str(small), tmp_path / "out", precision="bf16", device="cpu")
    assert not (tmp_path / "out").exists()
    kept = merge(str(tiny_checkpoint), str(small), tmp_path / "out", precision="fp32", device="cpu")
    assert kept.precision == "fp32" and 0 < kept.proof.adapter_moves < 0.1

    strong = peft_zoo.make("adalora", tiny_checkpoint, tmp_path / "strong")
    merged = merge(
        str(tiny_checkpoint), str(strong), tmp_path / "half", precision="bf16", device="cpu"
    )
    assert merged.proof.tolerance == pytest.approx(merged.proof.adapter_moves / 4)
    tensors = load_file(tmp_path / "half" / "model.safetensors").values()
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}


def test_what_was_spoiled_on_its_way_to_disk_is_not_published(
    tiny_checkpoint: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = PreTrainedModel.save_pretrained

    def spoiled(self: PreTrainedModel, folder: str, **options: Any) -> None:
        own(self, folder, **options)
        path = Path(folder) / "model.safetensors"
        tensors = load_file(path)
        name = next(name for name in tensors if "layers.1.mlp.down_proj" in name)
        tensors[name][0] += 0.5
        save_file(tensors, path, metadata={"format": "pt"})

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", spoiled)
    with pytest.raises(MergeError, match=r"was not written.*differ by up to 0\.\d+ where") as told:
        merge(str(tiny_checkpoint), str(lora), tmp_path / "out", device="cpu")
    assert "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_merged_is_refused_in_words(
    tiny_checkpoint: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def refused(sentence: str, adapter: Path, fault: type[Exception] = MergeError) -> None:
        with pytest.raises(fault, match=sentence) as told:
            merge(str(tiny_checkpoint), str(adapter), out, device="cpu")
        assert "\n" not in str(told.value) and str(told.value).endswith(".")
        assert not out.exists()

    for name in ("bottleneck", "prefix", "multi-task", "cross-modal"):
        refused(
            "no change of the base's weights", peft_zoo.make(name, tiny_checkpoint, tmp_path / name)
        )
    small = build_tiny(tmp_path / "small", hidden=32)
    refused("another size", peft_zoo.make("dora", small, tmp_path / "s"), AdapterError)
    refused("There is no folder", tmp_path / "none", AdapterError)
    values = json.loads((lora / "adapter_config.json").read_text())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "adapter_model.safetensors").symlink_to(lora / "adapter_model.safetensors")
    (tmp_path / "mine" / "adapter_config.json").write_text(
        json.dumps({**values, "peft_type": "MINE"})
    )
    refused("unknown method", tmp_path / "mine", AdapterError)

    def cannot(*_: object, **__: object) -> None:
        raise NotImplementedError("Merging is not supported")

    monkeypatch.setattr("peft.tuners.lora.LoraModel.merge_and_unload", cannot)
    refused("PEFT does not do it for this adapter of the method lora", lora)
    monkeypatch.setattr(weights, "load_base", cannot)  # what follows comes before any weight
    out.mkdir()
    with pytest.raises(MergeError, match="there already"):
        merge(str(tiny_checkpoint), str(lora), out, device="cpu")
