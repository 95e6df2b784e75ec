"""Which checkpoint a run goes on from, after a power cut and among what others have laid there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from qvla.jobs import folder as job_folder
from qvla.methods.recipe import Recipe, TrainingError
from qvla.tuning import checkpoints, events
from qvla.tuning.caption_trainer import CaptionTrainer
from qvla.tuning.training import train
from tests.support.colours import recipe_for


class PowerCut(BaseException):
    """Nothing in a run may take it for a fault of its own."""


@pytest.fixture(scope="module")
def cut_off(tiny_checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A run of 7 steps that ended within its fifth, with the checkpoints of steps 2 and 4."""
    output = tmp_path_factory.mktemp("cut-off") / "adapter"
    changes = {"max_steps": 7, "save_steps": 2, "eval_splits": []}
    recipe = recipe_for(tiny_checkpoint, data, output, **changes)
    compute_loss = CaptionTrainer.compute_loss

    def until_the_cut(self: CaptionTrainer, *args: object, **kwargs: object) -> object:
        if self.state.global_step == 4:
            raise PowerCut
        return compute_loss(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CaptionTrainer, "compute_loss", until_the_cut)
        with pytest.raises(PowerCut):
            train(recipe)
    assert checkpoints.find(recipe.checkpoints) == checkpoints.Found(
        recipe.checkpoints / "checkpoint-4"
    )
    return recipe


@pytest.fixture
def run(cut_off: Recipe, tmp_path: Path) -> Recipe:
    """A copy of that run, to be damaged."""
    shutil.copytree(cut_off.output.parent, tmp_path / "job")
    return cut_off.model_copy(update={"output": tmp_path / "job" / "adapter"})


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGE = [
    (empty, "optimizer.pt"),
    (cut, "optimizer.pt"),
    (empty, "scheduler.pt"),
    (zeros, "rng_state.pth"),
    (cut, "adapter_model.safetensors"),
    (empty, "adapter_model.safetensors"),
    (zeros, "adapter_model.safetensors"),
    (Path.unlink, "adapter_model.safetensors"),
    (empty, "adapter_config.json"),
    (Path.unlink, "trainer_state.json"),
    (lambda path: path.write_text("[" * 100_000), "trainer_state.json"),
]


@pytest.mark.parametrize(("damage", "name"), DAMAGE)
def test_a_damaged_checkpoint_is_passed_over(
    damage: Callable[[Path], object], name: str, run: Recipe
) -> None:
    damage(run.checkpoints / "checkpoint-4" / name)
    found = checkpoints.find(run.checkpoints)
    assert found.checkpoint == run.checkpoints / "checkpoint-2"
    first, last = found.said
    assert first.startswith("checkpoint-4 is damaged (")
    assert name in first or "no weights" in first
    assert last == "The run goes on from checkpoint-2."
    assert job_folder.last_step(run.output.parent) == 2  # as the queue tells it


def test_weights_in_several_files_are_all_there(run: Recipe) -> None:
    newest = run.checkpoints / "checkpoint-4"
    index = '{"weight_map": {"a": "adapter_model.safetensors", "b": "other.safetensors"}}'
    (newest / "adapter_model.safetensors.index.json").write_text(index)
    said = checkpoints.find(run.checkpoints).said[0]
    assert said == "checkpoint-4 is damaged (other.safetensors is missing)."


def test_a_run_goes_on_from_what_is_whole_says_so_and_leaves_the_rest_alone(
    run: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run.checkpoints
    empty(folder / "checkpoint-4" / "optimizer.pt")
    shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-3-backup")
    shutil.copytree(folder / "checkpoint-2", tmp_path / "elsewhere")
    for name in ("checkpoint-best", "checkpoint-9"):
        (folder / name).symlink_to(tmp_path / "elsewhere")
    card = train(run, resume=True).card
    assert (card["resumed_from_step"], card["steps"]) == (2, 7)
    sentence = "checkpoint-4 is damaged (optimizer.pt is cut off). The run goes on from "
    assert f"{sentence}checkpoint-2." in caplog.messages
    notes = [row["text"] for row in events.read(run.events)[0] if row["event"] == "note"]
    assert notes == [f"{sentence}checkpoint-2."]
    assert (tmp_path / "elsewhere" / "optimizer.pt").stat().st_size
    assert {path.name for path in folder.iterdir()} == {
        *("checkpoint-3-backup", "checkpoint-best", "checkpoint-9")
    }
    assert (folder / "checkpoint-3-backup" / "optimizer.pt").stat().st_size


def test_without_any_whole_one_it_says_what_it_goes_on_without(run: Recipe) -> None:
    for step in (2, 4):
        (run.checkpoints / f"checkpoint-{step}" / "optimizer.pt").unlink()
    found = checkpoints.find(run.checkpoints)
    assert found.checkpoint == run.checkpoints / "checkpoint-4"
    assert found.said == (
        "checkpoint-4 has no optimizer.pt.",
        "checkpoint-2 has no optimizer.pt.",
        "The run goes on from checkpoint-4.",
        "Without that, its optimiser begins anew.",
    )


def test_when_nothing_is_left_the_refusal_names_each(run: Recipe) -> None:
    empty(run.checkpoints / "checkpoint-4" / "optimizer.pt")
    cut(run.checkpoints / "checkpoint-2" / "adapter_model.safetensors")
    with pytest.raises(TrainingError) as caught:
        train(run, resume=True)
    said = str(caught.value)
    assert said.startswith("There is no whole checkpoint to resume from in ") and "\n" not in said
    assert "checkpoint-4 is damaged (optimizer.pt is cut off)." in said
    assert "checkpoint-2 is damaged (adapter_model.safetensors is cut off)." in said
    assert said.endswith("Start anew with --overwrite.")
    assert job_folder.last_step(run.output.parent) is None
