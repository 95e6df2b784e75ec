"""Every method that PEFT brings, and the bottleneck in both towers: trained, saved, served.

What serves is held against PEFT's own loading of the saved folder.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qvla.methods.recipe import make_recipe
from qvla.methods.registry import KINDS
from qvla.models.adapters import load_adapter
from qvla.models.backbone import Backbone, load_backbone
from qvla.tuning.caption_trainer import caption_loss, image_features
from qvla.tuning.methods import add_method, save
from tests.support.adapted import logits, make_inputs
from tests.support.alone import load_alone

BOTH = {"towers": "both", "placement": "sparse"}
CASES = {
    "adapter": {"towers": "both", "placement": "top", "reduction_factor": 8, "train_norms": True},
    "lora": {**BOTH, "projector": True, "adaptive_rank": True},
    "dora": BOTH,
    "adalora": BOTH,
    "vera": {"towers": "both", "vision_placement": "bottom", "rank": 32},
    "oft": {"towers": "vision"},
    "boft": {"towers": "both"},
    "ia3": {"preset": "vqa"},
    "qvla": {"towers": "vision", "reduction_factor": 8},
    "qdora": BOTH,
    "qadalora": {"layers": [1]},
    "qvera": {**BOTH, "rank": 32},
    "qoft": BOTH,
    "qboft": {"towers": "vision"},
}
STEPS = 6
# Each of these has a neighbour that stays: its float kind, or the same tuner on NF4.
SLOW = ("oft", "qadalora", "qvera", "qboft")
NAMES = [pytest.param(one, marks=[pytest.mark.slow] if one in SLOW else []) for one in CASES]


@pytest.fixture(scope="module")
def serving(tiny_checkpoint: Path) -> dict[str, Backbone]:
    return {name: load_backbone(tiny_checkpoint, name, device="cpu") for name in ("fp32", "nf4")}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_trained_is_what_is_served(
    name: str, serving: dict[str, Backbone], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    recipe = make_recipe(
        **{"method": name, "model": str(tiny_checkpoint), "data": "data", "output": "output"},
        **{"device": "cpu", "bf16": False, "precision": "fp32", **CASES[name]},
    )
    quantised = KINDS[name].quantised
    backbone = load_backbone(tiny_checkpoint, recipe.base_precision, for_training=True)
    torch.manual_seed(0)
    model = add_method(backbone, recipe).train()
    losses = overfit(model, backbone)
    assert losses[-1] < losses[0] - 0.01, losses
    folder = tmp_path / "adapter"
    folder.mkdir()
    save(model, backbone.processor, recipe, folder)

    bare = serving["nf4" if quantised else "fp32"]
    adapter = load_adapter(bare, folder, "own")
    assert adapter.changes_sight is (recipe.towers != "language" or recipe.preset is not None)
    assert not adapter.mixes or not adapter.changes_sight
    batch = make_inputs(tiny_checkpoint, 2, bare.model.dtype)
    served = logits(adapter.model, batch)
    alone = load_alone(tiny_checkpoint, folder, nf4=quantised)
    near = 0.02 if quantised else 2e-5
    torch.testing.assert_close(served, logits(alone, batch), rtol=0, atol=near)
    assert (served - logits(bare.model, batch)).abs().max() > 2 * near


def overfit(model: torch.nn.Module, backbone: Backbone) -> list[float]:
    """Losses of a few steps on one batch, as the trainer takes them, each trained tensor moved."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    optimiser = torch.optim.AdamW(trained.values(), lr=1e-2, weight_decay=0)
    batch = backbone.family.encode(
        backbone.processor, ["caption en"] * 2, ["a river .", "many planes parked ."]
    )
    generator = torch.Generator().manual_seed(0)
    side = backbone.family.image_side(backbone.model.config)
    pixels = torch.randn(2, 3, side, side, generator=generator).to(backbone.model.dtype)
    losses = []
    for _ in range(STEPS):
        features = image_features(model, pixels, torch.arange(2))
        loss, count = caption_loss(model, dict(batch), features)
        (loss / count).backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append((loss / count).item())
    still = [name for name, p in trained.items() if torch.equal(p, before[name])]
    assert not still, "no gradient reached these"
    return losses
