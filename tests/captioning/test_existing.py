"""Who carries an adapter of which method, found among adapters that PEFT itself wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from peft import LoraConfig

from qvla.captioning.contenders import Contender
from qvla.captioning.existing import by_method
from qvla.methods.bottleneck import BottleneckConfig

CONFIGS = {
    "first": LoraConfig(r=4, target_modules=["q_proj"]),
    "dora": LoraConfig(r=4, target_modules=["q_proj"], use_dora=True),
    "second": LoraConfig(r=8, target_modules=["q_proj"]),
    "ours": BottleneckConfig(),
}


@pytest.fixture
def contenders(tmp_path: Path) -> list[Contender]:
    (tmp_path / "model").mkdir()
    made = [Contender(name="base", title="Base", base=str(tmp_path / "model"))]
    for name, config in CONFIGS.items():
        config.save_pretrained(tmp_path / name)
        made.append(
            Contender(
                name=name,
                title=name,
                base=str(tmp_path / "model"),
                precision="nf4" if name == "ours" else "bf16",
                adapter=str(tmp_path / name),
            )
        )
    return made


def names(found: dict[str, Contender]) -> dict[str, str]:
    return {method: one.name for method, one in found.items()}


def test_each_method_has_the_first_adapter_of_its_own(
    contenders: list[Contender], tmp_path: Path
) -> None:
    model = str(tmp_path / "model")
    due = {"lora": "first", "dora": "dora", "bottleneck": "ours"}
    assert names(by_method(contenders, model)) == due
    assert names(by_method(contenders, f"{model}/../model")) == due
    assert by_method(contenders, str(tmp_path)) == {}
    floats = {"lora": "first", "dora": "dora"}
    assert names(by_method(contenders, model, "fp32")) == floats
    assert names(by_method(contenders, model, "nf4")) == {"bottleneck": "ours"}
    assert by_method(contenders, model, "int8") == {}


@pytest.mark.parametrize("content", [None, "no json", "[]", '{"peft_type": "LOHA"}', "{}"])
def test_what_tells_no_method_does_not_count(
    contenders: list[Contender], tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "first" / "adapter_config.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    assert names(by_method(contenders, str(tmp_path / "model")))["lora"] == "second"
    gone = contenders[1].model_copy(update={"adapter": "someone/not-in-the-cache"})
    assert by_method([gone], str(tmp_path / "model")) == {}
