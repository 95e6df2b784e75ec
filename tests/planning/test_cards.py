"""README's table of which GPU holds what, against the planner that it was made by."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import qvla
from qvla.captioning.bases import precision_of
from qvla.models.architectures import PALIGEMMA_3B
from qvla.models.backbone import Precision
from qvla.models.params import read_model_config
from qvla.planning.gpus import GPUS, fits
from qvla.planning.planner import CUDA_CONTEXT, CUDA_WORKSPACE, plan
from qvla.planning.trainable import Skeleton

README = Path(qvla.__file__).resolve().parents[1] / "README.md"
# Columns as a Space names its hardware, largest cards last.
CARDS = {
    "T4": "T4 16 GB",
    "A10G": "A10G 24 GB",
    "L4": "L4 24 GB",
    "L40S": "L40S 48 GB",
    "A100": "A100 80 GB",
    "H100": "H100 80 GB",
}


def needs() -> dict[str, int]:
    """Bytes of each row of the table, for paligemma-3b-pt-224."""
    skeleton = Skeleton(read_model_config(PALIGEMMA_3B))

    def of(variant: str, task: str, precision: str | None = None, photos: int = 1) -> int:
        given = {"precision": precision, "embeddings_8bit": True, "skeleton": skeleton}
        return plan(PALIGEMMA_3B, variant, task=task, batch_size=photos, **given).total

    captioning = {one: of("adapter", "captioning", one) for one in ("fp32", "bf16", "fp16", "int8")}
    nf4, once = of("qvla", "captioning"), CUDA_CONTEXT + CUDA_WORKSPACE
    return {
        "Base and Adapter, float32": captioning["fp32"],
        "Base and Adapter, bfloat16": captioning["bf16"],
        "Base and Adapter, float16": captioning["fp16"],
        "Base and Adapter, int8": captioning["int8"],
        "QVLA, NF4": nf4,
        "all three, float32 and NF4": captioning["fp32"] + nf4 - once,
        "all three, bfloat16 and NF4": captioning["bf16"] + nf4 - once,
        "all three, float16 and NF4": captioning["fp16"] + nf4 - once,
        "fine-tune Adapter, bfloat16": of("adapter", "training", "bf16", 4),
        "fine-tune QVLA, NF4": of("qvla", "training", None, 4),
        "fine-tune all weights, float32": of("base", "training", "fp32", 4),
    }


def table() -> str:
    lines = [f"| | GB | {' | '.join(CARDS)} |", "|---" * (len(CARDS) + 2) + "|"]
    for what, size in needs().items():
        marks = [
            "–"
            if "bfloat16" in what and card == "T4"
            else "yes"
            if fits(size, GPUS[name])
            else "no"
            for card, name in CARDS.items()
        ]
        lines.append(f"| {what} | {size / 1e9:.1f} | {' | '.join(marks)} |")
    return "\n".join(lines) + "\n"


def test_the_readmes_table_is_the_planners() -> None:
    assert table() in README.read_text(encoding="utf-8")


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp16"), ((8, 0), "bf16")])
def test_a_card_without_bfloat16_holds_float16(
    capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By PyTorch's own answer for a card of that generation."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    card = type("Card", (), {"major": capability[0], "minor": capability[1]})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert precision_of("auto", "cuda") is Precision(precision)
    assert precision_of("bf16", "cuda") is Precision.BF16  # asked for, it is had
    assert precision_of("auto", "cpu") is Precision.FP32
