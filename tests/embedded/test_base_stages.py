"""Teacher, sight and language, cut off and gone on with: the same weights, by a clock of steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoModel

from qvla.captioning.prompts import IGNORED, encode_text
from qvla.data.risc import Example
from qvla.embedded import architecture, budget, language, sight, teachers
from qvla.embedded.architecture import FAMILY, mini_config
from qvla.embedded.base import make_processor
from qvla.embedded.naming import Names, NamingHeads
from qvla.embedded.sources import TrainingPhoto, shares_of
from qvla.embedded.tasks import Prompt
from qvla.embedded.teachers import GRID, Seen, Teacher
from qvla.embedded.views import STORED_SIZE, Views, for_student

STEPS = 4  # of a second each, by the clock of these tests
MINUTES = STEPS / 60
Weights = dict[str, torch.Tensor]

CAPTIONS = (
    "many green trees near a river .",
    "a road next to some buildings .",
    "planes parked in an airport .",
) * 4
PHOTOS = [
    TrainingPhoto(Example(Path(f"{n}.png"), "MADE", "train", (caption,)), f"scene{n % 2}")
    for n, caption in enumerate(CAPTIONS)
]
SCENES = [
    TrainingPhoto(Example(Path(f"scene{n}.png"), "MADE", "train", ()), "grass") for n in range(3)
]


@pytest.fixture(autouse=True)
def small_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(budget.time, "monotonic", lambda: float(next(seconds)))
    monkeypatch.setattr(budget, "SAVE_EVERY_SECONDS", 0)
    monkeypatch.setattr(architecture, "HIDDEN", 32)
    monkeypatch.setattr(teachers, "BATCH", 2)
    monkeypatch.setattr(teachers, "Teacher", Averages)
    monkeypatch.setattr(language, "PHOTOS", 1)
    monkeypatch.setattr(nn.Module, "compile", lambda module: None)  # for speed alone


class Averages(Teacher):
    """A teacher whose network is small: a normalised projection of the means of a photo's parts."""

    widths = (4, 6)

    def __init__(self, network: str, names: Names) -> None:
        nn.Module.__init__(self)
        self.norm, self.all = nn.BatchNorm2d(3), nn.Conv2d(3, 6, 1)
        self.heads = NamingHeads(6, names)

    def forward(self, pixels: torch.Tensor) -> Seen:
        parts = nn.functional.adaptive_avg_pool2d(self.norm(pixels), GRID)
        tokens = self.all(parts).flatten(2).transpose(1, 2)
        return Seen(tokens[..., :4], tokens, self.heads(tokens))


@pytest.fixture(scope="module")
def views() -> Views:
    draw = torch.Generator().manual_seed(0)
    shape = (len(PHOTOS + SCENES), 3, STORED_SIZE, STORED_SIZE)
    return Views(torch.randint(256, shape, dtype=torch.uint8, generator=draw))


def taught_to_teach(views: Views, checkpoint: Path) -> Weights:
    photos = PHOTOS + SCENES
    taught = teachers.train_teacher(
        *("lite0", Names.of(photos), photos, views), minutes=MINUTES, checkpoint=checkpoint
    )
    return taught.state_dict()


def taught_to_see(views: Views, checkpoint: Path, seed: int = 0) -> Weights:
    torch.manual_seed(0)
    tower = AutoModel.from_config(small().vision_config, attn_implementation="eager")
    photos = PHOTOS + SCENES
    names = Names.of(photos)
    return sight.train_sight(
        *(tower, Averages("lite0", names).eval(), names, photos, views),
        minutes=MINUTES,
        checkpoint=checkpoint,
        batch=2,
        seed=seed,
    )


def taught_words(views: Views, checkpoint: Path, seed: int = 0) -> Weights:
    torch.manual_seed(0)
    model = FAMILY.model_class._from_config(small(), attn_implementation="eager")
    return language.train_language(
        *(model, make_processor(PHOTOS), PHOTOS, views),
        minutes=MINUTES,
        checkpoint=checkpoint,
        seed=seed,
    )


def small() -> object:
    """The embedded model's configuration with a layer a tower."""
    config = mini_config(make_processor(PHOTOS))
    for part in (config.text_config, config.vision_config):
        part.num_hidden_layers, part.intermediate_size, part.num_attention_heads = 1, 32, 1
    config.vision_config.hidden_size = 32
    return config


@pytest.mark.parametrize("stage", [taught_to_teach, taught_to_see, taught_words])
def test_a_stage_that_was_cut_off_ends_with_the_weights_of_one_that_was_not(
    stage: Callable[[Views, Path], Weights],
    views: Views,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = stage(views, tmp_path / "whole.pt")
    step = budget.BudgetRun.step

    def cut_off(self: budget.BudgetRun, loss: torch.Tensor) -> None:
        if self.step_number == 2:
            raise InterruptedError
        step(self, loss)

    with monkeypatch.context() as cut:
        cut.setattr(budget.BudgetRun, "step", cut_off)
        with pytest.raises(InterruptedError):
            stage(views, tmp_path / "cut.pt")
    assert torch.load(tmp_path / "cut.pt", weights_only=True)["step_number"] == 2
    resumed = stage(views, tmp_path / "cut.pt")
    assert torch.load(tmp_path / "cut.pt", weights_only=True)["step_number"] == STEPS
    assert resumed.keys() == whole.keys()
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("stage", [taught_to_see, taught_words])
def test_with_another_seed_it_is_taught_by_other_views(
    stage: Callable[[Views, Path, int], Weights], views: Views, tmp_path: Path
) -> None:
    one, other = (stage(views, tmp_path / f"{seed}.pt", seed) for seed in (0, 1000))
    trained = [name for name, weight in one.items() if weight.any()]
    assert trained and all(not torch.equal(one[name], other[name]) for name in trained)


def test_a_fifth_of_the_words_to_be_told_is_not_shown() -> None:
    ids = torch.arange(2, 42).repeat(250, 1)
    labels = ids.masked_fill(ids < 12, IGNORED)  # the prompt is all shown
    torch.manual_seed(0)
    shown = language.partly_shown(ids, labels, 1, 0.2)
    hidden = shown != ids
    assert (shown[hidden] == 1).all()
    assert not hidden[:, :10].any()
    assert hidden[:, 10:].float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert (ids == torch.arange(2, 42)).all()  # the batch itself keeps its tokens


def test_photos_of_nwpu_are_drawn_twice_as_often() -> None:
    elsewhere = TrainingPhoto(Example(Path("a.png"), "NWPU", "train", ("a lake .",)), "lake")
    shares = shares_of([*PHOTOS[:5], elsewhere], torch.device("cpu"))
    assert shares.tolist() == pytest.approx([1 / 7] * 5 + [2 / 7])


def test_the_loss_is_transformers_own(views: Views) -> None:
    torch.manual_seed(0)
    model = FAMILY.model_class._from_config(small(), attn_implementation="eager").eval()
    processor = make_processor(PHOTOS)
    asked = [Prompt("write en river", "trees near a river"), Prompt("classify en", "scene1")] * 2
    pixels = for_student(views.draw(torch.tensor([0, 1])))
    mine = language.loss_of(model, processor, pixels, asked)
    batch = encode_text(processor, [p.prefix for p in asked], [p.suffix for p in asked])
    own = model(**batch, pixel_values=pixels.repeat_interleave(2, dim=0)).loss
    torch.testing.assert_close(mine, own, atol=1e-5, rtol=1e-5)


def test_what_is_told_of_held_out_photos_is_their_loss(
    views: Views, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "photo.png")
    photo = TrainingPhoto(Example(tmp_path / "photo.png", "MADE", "val", CAPTIONS[:1]), "scene0")
    model = FAMILY.model_class._from_config(small(), attn_implementation="eager")
    caplog.set_level("INFO", logger=language.__name__)
    language.train_language(
        *(model, make_processor(PHOTOS), [photo] * len(PHOTOS), views),
        minutes=MINUTES,
        checkpoint=tmp_path / "language.pt",
        held_out=[photo],
    )
    held_out, taught = [float(line.rsplit(" ", 1)[1]) for line in caplog.messages[-2:]]
    assert "on 1 held out photos the loss" in caplog.messages[-2]
    assert held_out == taught > 0
