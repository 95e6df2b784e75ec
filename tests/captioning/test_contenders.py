"""The line-up's file: what it asks for, and what is refused in a sentence that names the entry."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvla.captioning.contenders import contenders_of, with_weights
from qvla.captioning.decoding import Decoding
from qvla.captioning.engine import caption
from qvla.captioning.lineup import Lineup
from qvla.errors import QvlaError
from qvla.settings import Settings
from tests.support.alone import LENGTH, Alone, clear_photos, save_adapter

FILE = """
- title: As it is
- title: Fine-tuned (8)
  adapter: eighth
- title: Four bits
  name: nf4
  precision: nf4
"""


def settings_of(tmp_path: Path, text: str, model: str = "owner/model") -> Settings:
    file = tmp_path / "lineup.yaml"
    file.write_text(text, encoding="utf-8")
    return Settings(model=model, lineup=file)


def test_the_default_three_come_from_the_settings() -> None:
    three = contenders_of(Settings(model="owner/model", adapter="a", precision="bf16"))
    assert [(one.name, one.title, one.base, one.precision, one.adapter) for one in three] == [
        ("base", "Base", "owner/model", "bf16", None),
        ("adapter", "Adapter", "owner/model", "bf16", "a"),
        ("qvla", "QVLA", "owner/model", "nf4", None),
    ]
    assert with_weights(three) == ["base", "adapter"]


def test_a_file_names_others(tmp_path: Path) -> None:
    (tmp_path / "eighth").mkdir()
    three = contenders_of(settings_of(tmp_path, FILE))
    assert [one.name for one in three] == ["as-it-is", "fine-tuned-8", "nf4"]
    assert {one.base for one in three} == {"owner/model"}
    assert three[1].adapter == str(tmp_path / "eighth")  # beside the file
    assert [one.needs_adapter for one in three] == [False, True, False]
    assert with_weights(three) == ["as-it-is", "fine-tuned-8", "nf4"]


def test_its_contenders_answer_as_the_models_alone(tiny_checkpoint: Path, tmp_path: Path) -> None:
    save_adapter(tiny_checkpoint, tmp_path / "eighth", seed=8)
    lineup = Lineup.of(contenders_of(settings_of(tmp_path, FILE, str(tiny_checkpoint))))
    alone = {
        "as-it-is": Alone(tiny_checkpoint),
        "fine-tuned-8": Alone(tiny_checkpoint, tmp_path / "eighth"),
        "nf4": Alone(tiny_checkpoint, nf4=True),
    }
    photos = clear_photos(alone.values(), 1)
    (answers,) = caption(lineup, photos, None, Decoding(max_new_tokens=LENGTH))
    due = {name: model.text(photos[0]) for name, model in alone.items()}
    assert {name: answer.text for name, answer in answers.items()} == due
    assert [variant.title for variant in lineup.variants()] == [
        *("As it is", "Fine-tuned (8)", "Four bits")
    ]
    with pytest.raises(QvlaError, match="as-it-is, fine-tuned-8, nf4"):
        caption(lineup, photos, ["base"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("title: Base", "must be a list of 1 to 12 contenders"),
        ("[]", "must be a list of 1 to 12 contenders"),
        ("- [", "not a readable YAML file"),
        ("- Base", "Contender 1 of lineup.yaml must be `name: value` lines"),
        ("- precision: nf4", "Contender 1 of lineup.yaml: it lacks a title"),
        ("- title: A\n  method: lora", "there is no setting called method"),
        ("- title: A\n  precision: int3", "its precision cannot be 'int3'"),
        ("- title: A\n  name: A B", "its name cannot be 'A B'"),
        ("- title: A\n- title: A\n  name: b", "Two contenders of lineup.yaml have the title 'A'"),
        ("- title: A\n- title: a", "Two contenders of lineup.yaml have the name 'a'"),
        ("- title: A\n  1: 2", "Contender 1 of lineup.yaml"),
        ("\n".join(f"- title: {n}" for n in range(13)), "must be a list of 1 to 12 contenders"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(QvlaError) as caught:
        contenders_of(settings_of(tmp_path, text))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(QvlaError, match="not a readable YAML file"):
        contenders_of(Settings(lineup=tmp_path / "none.yaml"))


def test_what_cannot_be_attached_leaves_the_others(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "eighth").mkdir()
    lineup = Lineup.of(contenders_of(settings_of(tmp_path, FILE, str(tiny_checkpoint))))
    assert [variant.available for variant in lineup.variants()] == [True, False, True]
    assert "is not an adapter" in lineup.variant("fine-tuned-8").reason
