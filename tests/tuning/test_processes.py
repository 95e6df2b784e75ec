"""Several processes under `accelerate launch` train as one process does on the same global batch.

This file is also the program that is launched: it runs `qvla.tuning.training` as it stands, with a
trainer that writes down the gradients of every step.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qvla.captioning.prompts import CAPTION_PREFIX, IGNORED
from qvla.data.examples import read_examples
from qvla.methods.recipe import Recipe
from qvla.models.backbone import load_backbone
from qvla.tuning import attempt, events, training
from qvla.tuning.caption_trainer import CaptionTrainer, caption_loss, image_features
from qvla.tuning.checkpoints import find, step_of
from qvla.tuning.training import train
from qvla.tuning.training_data import CaptionedPhotos, Collator
from tests.support.colours import recipe_for, write_table

ROOT = Path(__file__).resolve().parents[2]
STEPS = 4  # more photos than there are, so that features are kept (`kept_features`)
PATIENCE = 600  # seconds: two processes import PyTorch, on a machine that may be busy
# Of very different lengths, so that two halves of a batch hardly ever have as many labels.
CAPTIONS = ("sea .", "many white houses next to the green trees and some planes in the airport .")


@dataclass(frozen=True)
class Case:
    """How one global batch of four photos is split: among processes, and within each of them."""

    method: str
    batch_size: int
    gradient_accumulation: int = 1
    tolerance: float = 1e-5  # in the first step, of a gradient's largest element

    @property
    def changes(self) -> dict[str, Any]:
        kept = {"method": self.method, "batch_size": self.batch_size}
        return kept | {"gradient_accumulation": self.gradient_accumulation}


CASES = {
    "float": Case("adapter", 2),
    "accumulated": Case("adapter", 1, gradient_accumulation=2),
    "nf4": Case("qvla", 2, tolerance=1e-2),  # NF4 computes in bfloat16
}


class Recorder(TrainerCallback):
    """Keeps the gradients that the optimiser is given, and the labelled tokens of each batch."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.kept: dict[str, torch.Tensor] = {}
        self.tokens: list[int] = []

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module,
        **_: Any,
    ) -> None:
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                key = f"{state.global_step}/{name.removeprefix('module.')}"
                self.kept[key] = parameter.grad.clone()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        save_file(self.kept | {"tokens": torch.tensor(self.tokens)}, self._path)


class RecordingTrainer(CaptionTrainer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        name = f"gradients-{self.args.process_index}.safetensors"
        self.recorder = Recorder(Path(self.args.output_dir).parent / name)
        self.add_callback(self.recorder)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if model.training:
            self.recorder.tokens.append(int((inputs["labels"] != IGNORED).sum()))
        return super().compute_loss(model, inputs, *args, **kwargs)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RISC folder of noisy squares, whose captions are one short and one long by turns."""
    folder = tmp_path_factory.mktemp("risc")
    (folder / "images").mkdir()
    noise = np.random.default_rng(3)
    rows = []
    for number in range(11):
        pixels = noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        split = "train" if number < 8 else "val"
        rows.append(["MADE", split, f"{number}.png", CAPTIONS[number % 3 == 0]])
    write_table(folder, rows)
    return folder


@pytest.fixture(scope="module")
def launched(
    tiny_checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Recipe]:
    """Every case as two processes have run it."""
    folder = tmp_path_factory.mktemp("two")
    recipes = {}
    for name, case in CASES.items():
        (folder / name).mkdir()
        recipes[name] = recipe(tiny_checkpoint, data, folder / name, **case.changes)
    configs = [write_config(one) for one in recipes.values()]
    done = launch("tests.tuning.test_processes", *configs)
    assert done.returncode == 0, done.stderr
    return recipes


def recipe(model: Path, data: Path, folder: Path, **changes: Any) -> Recipe:
    settings = {"max_steps": STEPS, "max_grad_norm": 0.0, "warmup_steps": 0}
    settings |= {"eval_steps": 1, "save_steps": 1}
    return recipe_for(model, data, folder / "out", **settings | changes)


def write_config(recipe: Recipe) -> Path:
    path = recipe.output.with_name("run.yaml")
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return path


def launch(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(module, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )


def command(module: str, *arguments: str | Path) -> list[str]:
    """`accelerate launch` of two processes, as for two GPUs; the recipes keep to the CPU.

    Its own `--cpu` starts one process only and leaves the others to mpirun
    (github.com/huggingface/accelerate, issue 2741).
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    parts = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    parts += ["--num_processes=2", "--num_machines=1", "--num_cpu_threads_per_process=1"]
    parts += ["--mixed_precision=no", "--dynamo_backend=no", f"--main_process_port={port}"]
    return [*parts, "-m", module, *map(str, arguments)]


def recorded(recipe: Recipe, process: int = 0) -> dict[str, torch.Tensor]:
    return load_file(recipe.output.parent / f"gradients-{process}.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_gradients_of_one(
    name: str,
    launched: dict[str, Recipe],
    tiny_checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = CASES[name]
    monkeypatch.setattr(attempt, "CaptionTrainer", RecordingTrainer)
    alone = recipe(tiny_checkpoint, data, tmp_path, method=case.method, batch_size=4)
    train(alone)
    expected = recorded(alone)
    found = [recorded(launched[name], process) for process in (0, 1)]

    tokens = expected.pop("tokens")
    shares = torch.stack([one.pop("tokens").view(STEPS, -1).sum(1) for one in found])
    assert torch.equal(shares.sum(0), tokens)  # the same photos in every step
    assert (shares[0] != shares[1]).any()  # but unevenly many labels in the two processes
    assert len(expected) == STEPS * 3 * 2 * 4
    for name, gradient in expected.items():
        assert torch.equal(found[0][name], found[1][name])
        # AdamW takes steps of one size even where gradients differ by rounding alone, so from the
        # second step on the weights differ by more than that.
        similarity = torch.cosine_similarity(found[0][name].flatten(), gradient.flatten(), dim=0)
        assert similarity > 0.999
        if name.startswith("0/"):
            tolerance = case.tolerance * gradient.abs().max().item()
            torch.testing.assert_close(found[0][name], gradient, atol=tolerance, rtol=0)


@pytest.mark.slow
def test_the_loss_of_an_evaluation_is_averaged_by_photos(
    launched: dict[str, Recipe], tiny_checkpoint: Path, data: Path
) -> None:
    """Three photos in batches of two: the two processes have the first photo twice."""
    rows, _ = events.read(launched["float"].events)
    found = [row["loss"] for row in rows if row["event"] == "evaluation"]
    assert len(found) == STEPS
    backbone = load_backbone(tiny_checkpoint, "fp32", device="cpu")
    model = PeftModel.from_pretrained(backbone.model, launched["float"].output)
    photos = CaptionedPhotos(read_examples(data, splits=["val"]), backbone.processor, seed=0)
    collate = Collator(backbone.processor, CAPTION_PREFIX)
    losses = []
    for rows in ([0, 1], [2, 0]):
        batch = collate([photos[row] for row in rows])
        features = image_features(model, batch["pixel_values"], batch["photo_rows"])
        with torch.no_grad():
            total, count = caption_loss(model, batch, features)
        losses.append((total / count).item())
    assert found[-1] == pytest.approx((2 * losses[0] + losses[1]) / 3, rel=1e-4)


@pytest.mark.slow
def test_two_processes_take_the_self_critical_step_of_one(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    taught = {"method": "full", "batch_size": 4, "max_steps": 40, "eval_splits": []}
    train(recipe_for(tiny_checkpoint, data, tmp_path / "taught", **taught))
    found = {}
    for name, batch_size in (("one", 4), ("two", 2)):
        (tmp_path / name).mkdir()
        changes = {"objective": "cider", "batch_size": batch_size, "max_steps": 1}
        run = recipe(tmp_path / "taught", data, tmp_path / name, **changes)
        if name == "one":
            train(run)
        else:
            done = launch("qvla.tuning.training", "--config", write_config(run))
            assert done.returncode == 0, done.stderr
        rows, _ = events.read(run.events)
        assert next(row["loss"] for row in rows if row["event"] == "step") < -0.1  # else no step
        found[name] = load_file(run.output / "adapter_model.safetensors")
    for name, weight in found["one"].items():
        torch.testing.assert_close(found["two"][name], weight, atol=2e-5, rtol=1e-3)


@pytest.mark.slow
def test_a_signal_to_one_process_ends_both_with_a_checkpoint(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """SIGTERM, and the lock of a device shared with an app: neither may leave one waiting."""
    changes = {"max_steps": 10**6, "save_steps": 10**6, "device_lock": tmp_path / "lock"}
    long = recipe(tiny_checkpoint, data, tmp_path, batch_size=2, **changes, eval_splits=[])
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(
            command("qvla.tuning.training", "--config", write_config(long)),
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    try:
        give_up = time.monotonic() + PATIENCE
        while not steps_of(long) and run.poll() is None and time.monotonic() < give_up:
            time.sleep(0.2)
        assert steps_of(long), (tmp_path / "log").read_text()
        workers = psutil.Process(run.pid).children(recursive=True)
        next(one for one in workers if one.environ().get("RANK") == "1").terminate()
        assert run.wait(PATIENCE) != 0
    finally:
        if run.poll() is None:
            for process in psutil.Process(run.pid).children(recursive=True):
                process.kill()
            run.kill()
    last = find(long.checkpoints).checkpoint
    assert step_of(last) >= max(steps_of(long))
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {file.name for file in last.iterdir()}
    rows, _ = events.read(long.events)
    assert {row["state"] for row in rows if row["event"] == "end"} == {"ended"}


def steps_of(recipe: Recipe) -> list[int]:
    if not recipe.events.is_file():
        return []
    return [row["step"] for row in events.read(recipe.events)[0] if row["event"] == "step"]


if __name__ == "__main__":
    attempt.CaptionTrainer = RecordingTrainer
    sys.exit(max(training.main(["--config", config]) for config in sys.argv[1:]))
