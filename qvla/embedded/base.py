"""Makes the base of the embedded model: `python -m qvla.embedded.base --data DIR --work DIR`.

A teacher, sight, then language. Each part is resumed where it stopped when the same
command is given again; finished parts are not done again.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, ProcessorMixin

from qvla.embedded.architecture import FAMILY, IMAGE_SIZE, IMAGE_TOKENS, mini_config
from qvla.embedded.budget import computing_type
from qvla.embedded.language import train_language
from qvla.embedded.naming import Names
from qvla.embedded.sight import BATCH, train_sight
from qvla.embedded.sources import TrainingPhoto, photos_of, scene_photos, training_photos
from qvla.embedded.tasks import TASK_WORDS
from qvla.embedded.teachers import TEACHERS, train_teacher
from qvla.embedded.views import Views
from qvla.models.families.word_tokens import word_processor, words_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Minutes:
    """The budgets of the three parts."""

    teacher: float
    sight: float
    language: float


def make_base(
    data: Path,
    work: Path,
    out: Path,
    *,
    minutes: Minutes,
    scenes: Path | None = None,
    start_from: Path | None = None,
    teacher: str = "lite2",
    batch: int = BATCH,
    seed: int = 0,
    device: torch.device,
) -> None:
    """Trains for so many minutes and writes a bf16 PaliGemma checkpoint to `out`.

    `scenes` is a folder of photos that have a scene alone (`sources.scene_photos`), for teacher and
    sight; `start_from` an earlier base, from whose weights sight and language go on, with another
    `seed` to draw other views than it was made by.
    """
    told = training_photos(data)
    photos = told + (scene_photos(scenes) if scenes is not None else [])
    held_out = photos_of(data, "val")
    work.mkdir(parents=True, exist_ok=True)
    views, names = Views.of([photo.example for photo in photos], device), Names.of(photos)
    model, processor = _begin(told, start_from)
    tower: Any = model.get_submodule(FAMILY.tower)
    taught = train_teacher(
        *(teacher, names, photos, views),
        minutes=minutes.teacher,
        checkpoint=work / "teacher.pt",
        held_out=held_out,
    )
    weights = train_sight(
        *(tower, taught, names, photos, views),
        minutes=minutes.sight,
        checkpoint=work / "sight.pt",
        batch=batch,
        held_out=held_out,
        seed=seed,
    )
    tower.load_state_dict(weights)
    nn.Module.to(model, device, computing_type(device))
    weights = train_language(
        *(model, processor, told, views),
        minutes=minutes.language,
        checkpoint=work / "language.pt",
        held_out=held_out,
        seed=seed,
    )
    model.load_state_dict(weights, strict=False)  # the head is tied, the tower not trained
    model = model.cpu().bfloat16()
    model.generation_config.max_new_tokens = 40
    model.set_attn_implementation("sdpa")
    model.save_pretrained(out)
    processor.save_pretrained(out)
    log.info("%d parameters in %s", sum(p.numel() for p in model.parameters()), out)


def _begin(
    photos: list[TrainingPhoto], start_from: Path | None
) -> tuple[PreTrainedModel, ProcessorMixin]:
    torch.manual_seed(0)
    if start_from is None:
        processor = make_processor(photos)
        config = mini_config(processor)
        return FAMILY.model_class._from_config(config, attn_implementation="eager"), processor
    model = FAMILY.model_class.from_pretrained(
        start_from, attn_implementation="eager", dtype=torch.float32
    )
    return model, FAMILY.processor_class.from_pretrained(start_from)


def make_processor(photos: list[TrainingPhoto]) -> ProcessorMixin:
    captions = [caption for photo in photos for caption in photo.example.references]
    words = [*TASK_WORDS, *sorted({p.scene for p in photos}), *words_of(captions, at_least=4)]
    return word_processor(FAMILY, words, image_size=IMAGE_SIZE, image_tokens=IMAGE_TOKENS)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder in the RISC layout")
    parser.add_argument("--scenes", type=Path, help="RSSCN7's photos, to see more of")
    parser.add_argument("--work", type=Path, required=True, help="for checkpoints")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/mini"))
    parser.add_argument("--teacher-minutes", type=float, default=1)
    parser.add_argument("--sight-minutes", type=float, default=4)
    parser.add_argument("--language-minutes", type=float, default=2)
    parser.add_argument("--start-from", type=Path, help="an earlier base to go on from")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other views")
    parser.add_argument("--teacher", choices=TEACHERS, default="lite2")
    parser.add_argument("--batch-size", type=int, default=BATCH, help="views a step of sight")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    make_base(
        options.data,
        options.work,
        options.out,
        minutes=Minutes(options.teacher_minutes, options.sight_minutes, options.language_minutes),
        scenes=options.scenes,
        start_from=options.start_from,
        teacher=options.teacher,
        batch=options.batch_size,
        seed=options.seed,
        device=torch.device(options.device),
    )


if __name__ == "__main__":
    main()
