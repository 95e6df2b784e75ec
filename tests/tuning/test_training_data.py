"""Which rows a run is fed: photos of any kind that can be opened, and nothing lost in silence."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from qvla.data.imagery import open_image
from qvla.data.risc import Example
from qvla.embedded import views
from qvla.methods.recipe import TrainingError
from qvla.tuning.training import train
from qvla.tuning.training_data import sift
from tests.support.colours import recipe_for, write_table


def write_multispectral(path: Path, seed: int) -> None:
    """13 bands of uint16, as Sentinel-2 has."""
    noise = np.random.default_rng(seed)
    bands = noise.integers(200, 4000, (13, 64, 64)).astype(np.uint16)
    with rasterio.open(
        path, "w", driver="GTiff", width=64, height=64, count=13, dtype="uint16"
    ) as file:
        file.write(bands)


def photos(folder: Path, good: int, *, cut: int = 0, gone: int = 0, bare: int = 0) -> list[Example]:
    """Rows of which some cannot be used; the cut photos have whole headers."""
    whole = folder / "whole.jpg"
    Image.effect_noise((64, 64), 90).save(whole)
    examples = [Example(whole, "A", "train", ("a road",), f"{n}.jpg") for n in range(good)]
    (folder / "cut.jpg").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    for count, name, captions in (
        (cut, "cut.jpg", ("a road",)),
        (gone, "gone.jpg", ("a road",)),
        (bare, "whole.jpg", ()),
    ):
        examples += [
            Example(folder / name, "A", "train", captions, f"{n} {name}") for n in range(count)
        ]
    return examples


def test_multispectral_photos_are_trained_on(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for number in range(4):
        write_multispectral(tmp_path / f"{number}.tif", number)
    write_table(tmp_path, [["S2", "train", f"{n}.tif", "green trees"] for n in range(4)])
    recipe = recipe_for(
        tiny_checkpoint, tmp_path, tmp_path / "out", max_steps=1, batch_size=2, eval_splits=[]
    )
    data = train(recipe).card["data"]
    assert (data["photos"], data["left_out"]) == (4, {})


def test_rows_that_are_left_out_are_counted_by_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    examples = photos(tmp_path, 37, cut=1, gone=1, bare=1)
    with caplog.at_level(logging.WARNING, logger="qvla"):
        sifted = sift(examples)
    assert sifted.kept == examples[:37]
    assert sifted.left_out == {
        "no caption": 1,
        "no such photo": 1,
        "a photo that cannot be opened": 1,
    }
    (said,) = [one.getMessage() for one in caplog.records]
    assert "3 of 40 rows are left out" in said and "0 cut.jpg" in said and "0 gone.jpg" in said


def test_more_than_a_tenth_left_out_is_refused(tmp_path: Path) -> None:
    assert len(sift(photos(tmp_path, 36, cut=4)).kept) == 36
    with pytest.raises(TrainingError, match=r"5 of 41 rows cannot be used .* 10 %") as refusal:
        sift(photos(tmp_path, 36, cut=2, bare=3))
    assert "a photo that cannot be opened: 2" in str(refusal.value)
    assert "no caption: 3" in str(refusal.value) and "\n" not in str(refusal.value)
    with pytest.raises(TrainingError, match="No evaluation row is usable"):
        sift(photos(tmp_path, 0, gone=2), "evaluation ")


@pytest.mark.parametrize(
    "token", ["<eos>", "<image>", "<bos>", "<pad>", "<loc0012>", "<seg001>", "<mask>", "<unused7>"]
)
def test_a_special_token_in_a_caption_is_refused(tmp_path: Path, token: str) -> None:
    examples = photos(tmp_path, 3)
    examples[1] = Example(examples[1].image, "A", "train", ("a road", f"a {token} road"), "odd.jpg")
    with pytest.raises(TrainingError, match=f"odd.jpg: {token}.*take them out") as refusal:
        sift(examples)
    assert "\n" not in str(refusal.value)


def test_what_only_looks_like_a_token_is_kept(tmp_path: Path) -> None:
    texts = ("a <b> road", "5 < 6 > 3", "<location>", "< eos >", "image", "<loc1>")
    examples = [Example(item.image, "A", "train", texts) for item in photos(tmp_path, 1)]
    assert sift(examples).kept == examples


def test_the_embedded_model_s_photos_come_through_the_same_opener(tmp_path: Path) -> None:
    write_multispectral(tmp_path / "s2.tif", 0)
    opened = views.open_photo(tmp_path / "s2.tif")
    assert np.array_equal(np.asarray(opened), np.asarray(open_image(tmp_path / "s2.tif")))


def test_no_code_opens_photos_beside_the_one_opener() -> None:
    """`Image.open` decides by itself what is a photo; here `imagery` and its formats do."""
    package = Path(__file__).resolve().parents[2] / "qvla"
    users = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if "Image.open(" in path.read_text(encoding="utf-8")
    ]
    assert users and all(user.startswith("data/formats/") for user in users)
