"""Photos unlike those that a base was trained on: their distance, and who is told of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import AutoModelForImageTextToText, AutoProcessor

from qvla.captioning.certainty import UNFAMILIAR
from qvla.captioning.engine import caption, stream
from qvla.captioning.familiarity import (
    FILE,
    SHARE,
    SHRINKAGE,
    Familiarity,
    digest_of,
    familiarity_of,
    fitted,
    write,
)
from qvla.captioning.lineup import Lineup
from qvla.captioning.prompts import encode_images
from qvla.cli import main as cli
from qvla.data.examples import read_examples
from qvla.data.imagery import open_image
from qvla.models.backbone import load_backbone
from qvla.models.families import family_of
from qvla.settings import EMBEDDED_MODEL, load_settings
from tests.support.alone import LENGTH, Weights, make_weights, photos
from tests.support.tiny import build_tiny

FAMILIAR = photos(60)  # noise
FOREIGN = Image.new("RGB", (40, 40), (250, 0, 0))


def plain_distances(training: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mahalanobis distances, one photo after the other."""
    centre, covariance = training.mean(0), np.cov(training, rowvar=False)
    width = len(centre)
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / width * np.eye(
        width
    )
    inverse = np.linalg.inv(covariance)
    return np.array([np.sqrt((x - centre) @ inverse @ (x - centre)) for x in others])


def pooled_alone(model: Path, images: list[Image.Image]) -> np.ndarray:
    """Mean and deviation over its tokens of what Transformers' own model makes of each photo."""
    own = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
    pixels = AutoProcessor.from_pretrained(model).image_processor(images, return_tensors="pt")
    with torch.no_grad():
        seen = own.get_image_features(pixels["pixel_values"]).pooler_output
    tokens = seen.double().numpy()
    return np.concatenate([tokens.mean(1), tokens.std(1)], axis=1)


@pytest.fixture(scope="module")
def weights(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """A base that knows noise, and an adapter on it."""
    folder = tmp_path_factory.mktemp("familiar")
    model = Path(shutil.copytree(tiny_checkpoint, folder / "model"))
    seen = torch.from_numpy(pooled_alone(model, FAMILIAR))
    write(fitted(seen[:40], seen[40:], digest_of(model)), model)
    return make_weights(model, folder)


def test_distances_and_the_limit_are_mahalanobis_own(weights: Weights) -> None:
    known = familiarity_of(str(weights.model))
    assert known is not None and (known.photos, known.held_out) == (40, 20)
    seen = pooled_alone(weights.model, [*FAMILIAR, FOREIGN])
    expected = plain_distances(seen[:40], seen[40:])
    mean, deviation = (torch.from_numpy(part)[:, None] for part in np.split(seen[40:], 2, axis=1))
    features = mean + deviation * torch.tensor([[[1.0], [-1.0]]])  # two tokens
    assert known.distances(features).numpy() == pytest.approx(expected, rel=1e-3)
    assert known.limit == pytest.approx(np.quantile(expected[:20], SHARE), rel=1e-3)
    assert known.unfamiliar(features) == [*(expected[:20] > known.limit), True]


def test_every_answer_about_a_photo_says_so_without_a_second_look(weights: Weights) -> None:
    lineup = Lineup.load(weights.model, adapter=weights.adapter, precision="fp32", device="cpu")
    looks: list[int] = []
    tower = lineup.shared("base").loaded.model.model.vision_tower
    tower.register_forward_hook(lambda _, args, __: looks.append(1))
    names = ["base", "adapter"]
    both = caption(lineup, [FAMILIAR[0], FOREIGN], names)
    assert [[one.unfamiliar for one in said.values()] for said in both] == [
        [False, False],
        [True, True],
    ]
    assert len(looks) == 1
    *_, last = stream(lineup, FOREIGN, names)
    assert {name: one.unfamiliar for name, one in last.items()} == {"base": True, "adapter": True}
    [alone] = caption(lineup, [FOREIGN], ["adapter"])
    assert alone["adapter"].unfamiliar is True
    lineup.shared("base").familiarity = None
    assert caption(lineup, [FOREIGN], ["base"])[0]["base"].unfamiliar is None


def test_the_command_line_says_it_of_the_photo_alone(
    weights: Weights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [tmp_path / "familiar.png", tmp_path / "foreign.png"]
    for name, photo in zip(names, [FAMILIAR[0], FOREIGN], strict=True):
        photo.save(name)
    rest = ["--model", str(weights.model), "--variant", "base", "--max-new-tokens", str(LENGTH)]
    assert cli.main(["caption", *map(str, names), *rest, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert "notes" not in first
    assert second["notes"] == [UNFAMILIAR]


def test_other_weights_have_no_notice(
    weights: Weights, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = build_tiny(tmp_path / "other", seed=7)
    assert familiarity_of(str(other)) is None and not caplog.messages
    shutil.copy(weights.model / FILE, other / FILE)
    assert familiarity_of(str(other)) is None
    assert "made for other weights" in caplog.text
    assert familiarity_of("google/some-hub-id") is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x93NUMPY"])
def test_a_file_that_cannot_be_read_is_left_out(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert familiarity_of(str(tmp_path)) is None
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize("pooled", [{}, {"pooled": "mean"}])
def test_what_was_pooled_in_another_way_is_left_out(
    pooled: dict[str, str], weights: Weights, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with np.load(weights.model / FILE) as told:
        np.savez(tmp_path / FILE, **{n: told[n] for n in told.files if n != "pooled"}, **pooled)
    assert familiarity_of(str(tmp_path)) is None
    assert "cannot be read" in caplog.text


def test_shapes_that_do_not_belong_together_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = Familiarity(torch.zeros(3), torch.zeros(2, 2), 1.0, 1, 1, digest_of(tmp_path))
    write(odd, tmp_path)
    assert familiarity_of(str(tmp_path)) is None
    assert "cannot be read" in caplog.text


def test_the_embedded_model_knows_its_examples_and_no_drawing() -> None:
    known = familiarity_of(str(EMBEDDED_MODEL))
    assert known is not None, "make it anew for these weights: qvla.embedded.familiarity"
    backbone = load_backbone(str(EMBEDDED_MODEL), "fp32", device="cpu")
    examples = read_examples(load_settings().examples)
    images = [*(open_image(one.image) for one in examples), *map(drawn, range(8))]
    with torch.inference_mode():
        pixels = encode_images(backbone.processor, images)
        seen = family_of(backbone.model.config).image_features(backbone.model, pixels)
    assert known.unfamiliar(seen) == [*[False] * len(examples), *[True] * 8]


def drawn(seed: int) -> Image.Image:
    """Plain shapes on plain ground."""
    draw = np.random.default_rng(seed)
    image = Image.new("RGB", (224, 224), tuple(draw.integers(0, 256, 3).tolist()))
    pencil = ImageDraw.Draw(image)
    for _ in range(6):
        left, top, width, height = draw.integers(10, 150, 4).tolist()
        shape = pencil.ellipse if draw.random() < 0.5 else pencil.rectangle
        colour = tuple(draw.integers(0, 256, 3).tolist())
        shape([left, top, left + width, top + height], fill=colour)
    return image
