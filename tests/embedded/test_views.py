"""The views that teacher and vision tower are shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qvla.data.risc import Example
from qvla.embedded.sources import scene_photos
from qvla.embedded.views import (
    STORED_SIZE,
    STUDENT_SIZE,
    VIEW_SIZE,
    Views,
    for_student,
    in_other_light,
    whole,
)

CPU = torch.device("cpu")


def places() -> np.ndarray:
    """A photo (192, 192, 3) whose red says how far right a place is, green how far down."""
    steps = np.linspace(0, 255, STORED_SIZE)
    return np.stack([*np.meshgrid(steps, steps), np.full((STORED_SIZE,) * 2, 99.0)], -1).astype(
        np.uint8
    )


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Example:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(places()).save(path)
    return Example(path, "MADE", "train", ())


@pytest.fixture(scope="module")
def drawn(photo: Example) -> torch.Tensor:
    """Of 300 views, where each of their pixels is from: (300, 2, 224, 224), the photo's edges at 0
    and 1.
    """
    torch.manual_seed(0)
    held = Views.of([photo, photo], CPU)
    shown = held.draw(torch.arange(300) % 2)
    assert shown.shape == (300, 3, VIEW_SIZE, VIEW_SIZE)
    assert shown.min() >= -1 and shown.max() <= 1
    return (shown[:, :2] + 1) / 2


def test_a_view_is_the_whole_photo_or_a_crop_or_mirrored_at_a_smaller_scale(
    drawn: torch.Tensor,
) -> None:
    extent = drawn.amax((2, 3)) - drawn.amin((2, 3))  # (300, 2), right and down
    # How far the photo goes along a view: less than to its end where it is mirrored.
    far = torch.cat([drawn.diff(dim=-1).abs().sum(-1), drawn.diff(dim=-2).abs().sum(-2)], 1)
    travelled = far.amax((1, 2))
    coarse = travelled > 1.1
    whole_photo = (extent > 0.98).all(-1) & ~coarse
    assert 0.2 < whole_photo.float().mean() < 0.4
    assert 0.1 < coarse.float().mean() < 0.3
    assert 3 < travelled.max() < 4.2
    crops = extent[~whole_photo & ~coarse]
    assert crops.min() > 0.4 and len(crops) > 100
    stretch = (crops[:, 0] / crops[:, 1]).log().abs()
    assert (stretch < np.log(4 / 3) + 0.01).float().mean() > 0.9  # others hardly have a mirror
    assert drawn.amin((2, 3))[~whole_photo & ~coarse].max() > 0.3


def test_views_are_turned_in_all_eight_ways(drawn: torch.Tensor) -> None:
    right = drawn[:, :, 112, 116] - drawn[:, :, 112, 108]
    down = drawn[:, :, 116, 112] - drawn[:, :, 108, 112]
    # Where a view is mirrored in its middle it goes neither way.
    ways = torch.cat([right, down], 1).sign() * (torch.cat([right, down], 1).abs() > 0.012)
    plain = {tuple(way.int().tolist()) for way in ways if way.abs().sum() == 2}
    assert len(plain) == 8


def test_crops_alone_are_drawn_where_nothing_coarse_is_asked_for(photo: Example) -> None:
    torch.manual_seed(0)
    shown = Views.of([photo], CPU).draw(torch.zeros(100, dtype=torch.long), coarse=0)
    travelled = shown[:, :2, 112].diff(dim=-1).abs().sum(-1).amax(1) / 2
    assert travelled.max() < 1.01


def test_the_student_is_shown_what_pillow_would_make_of_a_photo(photo: Example) -> None:
    draw = np.random.default_rng(0)
    noise = Image.fromarray(draw.integers(0, 256, (28, 28, 3), np.uint8))
    image = noise.resize((VIEW_SIZE,) * 2, Image.Resampling.BICUBIC)
    view = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    small = image.resize((STUDENT_SIZE,) * 2, Image.Resampling.BICUBIC)
    own = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 127.5 - 1
    torch.testing.assert_close(for_student(view), own, atol=2 / 127.5, rtol=0)


def test_photos_as_they_are(photo: Example) -> None:
    [pixels] = whole([photo], STORED_SIZE)
    assert ((pixels.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy() == pytest.approx(places())
    assert whole([photo], STUDENT_SIZE).shape == (1, 3, STUDENT_SIZE, STUDENT_SIZE)


def test_small_views_are_read_from_small_photos() -> None:
    board = torch.arange(STORED_SIZE)[:, None] + torch.arange(STORED_SIZE)
    photo = (board % 2 * 255).byte().repeat(1, 3, 1, 1)  # finer than a small view can show
    torch.manual_seed(0)
    shown = Views(photo).draw(torch.zeros(200, dtype=torch.long))
    spread = shown.std((1, 2, 3))
    assert (spread < 0.05).float().mean() > 0.08  # grey, as from afar


def test_the_light_of_a_photo_changes_as_much_as_is_asked(photo: Example) -> None:
    plain = whole([photo] * 4, STUDENT_SIZE)
    off = []
    for light in (0, 0.2, 1):
        torch.manual_seed(0)
        off.append((in_other_light(plain, light) - plain).abs().mean().item())
    assert off[0] == pytest.approx(0, abs=1e-6)
    assert 0 < off[1] < 0.4 * off[2] < 0.2


def test_photos_with_a_scene_alone_are_read(tmp_path: Path) -> None:
    (tmp_path / "scenes.csv").write_text("image,scene\na.jpg,river or lake\nb.jpg,grass\n")
    first, second = scene_photos(tmp_path)
    assert (first.scene, second.scene) == ("riverorlake", "grass")
    assert first.example.image == tmp_path / "photos" / "a.jpg" and not first.example.references
