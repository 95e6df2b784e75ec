"""Makes the base of the embedded model: `python -m qvla.embedded.base --data DIR --work DIR`.

Views of the photos, sight, then language. Each part is resumed where it stopped when the same
command is given again; finished parts are not done again.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import ProcessorMixin

from qvla.embedded.architecture import FAMILY, IMAGE_SIZE, IMAGE_TOKENS, mini_config
from qvla.embedded.language import train_language
from qvla.embedded.sight import train_sight
from qvla.embedded.sources import TrainingPhoto, training_photos
from qvla.embedded.tasks import TASK_WORDS
from qvla.embedded.views import prepare
from qvla.files import write_tensors
from qvla.models.families.word_tokens import word_processor, words_of

log = logging.getLogger(__name__)


def make_base(data: Path, work: Path, out: Path, *, sight: float, language: float) -> None:
    """Trains for `sight` and `language` minutes and writes a bf16 PaliGemma checkpoint to `out`."""
    photos = training_photos(data)
    views = prepare([photo.example for photo in photos], work / "views")
    processor = make_processor(photos)
    config = mini_config(processor)
    tower_file = work / "sight.safetensors"
    if not tower_file.is_file():
        weights = train_sight(
            photos, views, config.vision_config, minutes=sight, checkpoint=work / "sight.pt"
        )
        write_tensors(tower_file, weights)
    torch.manual_seed(0)
    model = FAMILY.model_class._from_config(config, attn_implementation="eager")
    model.get_submodule(FAMILY.tower).load_state_dict(load_file(tower_file))
    model = model.bfloat16()
    weights = train_language(
        model, processor, photos, views, minutes=language, checkpoint=work / "language.pt"
    )
    model.load_state_dict(weights, strict=False)  # the head is tied, so named once
    model.generation_config.max_new_tokens = 40
    model.set_attn_implementation("sdpa")
    model.save_pretrained(out)
    processor.save_pretrained(out)
    log.info("%d parameters in %s", sum(p.numel() for p in model.parameters()), out)


def make_processor(photos: list[TrainingPhoto]) -> ProcessorMixin:
    captions = [caption for photo in photos for caption in photo.example.references]
    words = [*TASK_WORDS, *sorted({p.scene for p in photos}), *words_of(captions, at_least=4)]
    return word_processor(FAMILY, words, image_size=IMAGE_SIZE, image_tokens=IMAGE_TOKENS)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder in the RISC layout")
    parser.add_argument("--work", type=Path, required=True, help="views and checkpoints (6 GB)")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/mini"))
    parser.add_argument("--sight-minutes", type=float, default=40)
    parser.add_argument("--language-minutes", type=float, default=30)
    options = parser.parse_args()
    make_base(
        options.data,
        options.work,
        options.out,
        sight=options.sight_minutes,
        language=options.language_minutes,
    )


if __name__ == "__main__":
    main()
