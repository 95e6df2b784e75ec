"""Every pane is the model that it names: each contender against that model loaded alone.

The models alone are Transformers and PEFT only. Whatever stands beside a contender, and whatever
was there before it, its tokens are those of the model alone, and its logits as near as the batch's
other rows let them be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from qvla.captioning.contenders import Contender
from qvla.captioning.decoding import Decoding
from qvla.captioning.engine import caption, stream
from qvla.captioning.lineup import Lineup
from qvla.models.adapters import AdapterError
from tests.support.alone import LENGTH, Alone, clear_photos, load_alone, round_rows
from tests.support.peft_zoo import NOT_IN_NF4, ZOO, make
from tests.support.watched import Watched

GREEDY = Decoding(max_new_tokens=LENGTH)
PRECISIONS = ("fp32", "nf4")
NEAR = {"fp32": 2e-4, "nf4": 0.25}  # of logits that spread by about 3

# One kind for each way into a model, and of those what is another on layers of 4 bits: rows of one
# batch, views of their own with layers for 4 bits and without, a table in 8 bits, and refusals. The
# others go by the same ways with other layers of PEFT's; they are tried where there is time for it.
IN_NF4 = dict.fromkeys(
    ("bottleneck with norms", "lora by plain names", "lora on the embedding", "vera", *NOT_IN_NF4)
)
WAYS = dict.fromkeys(
    (*IN_NF4, "prefix", "bitfit", "multi-task", "cross-modal", "ln tuning", "dora", "ia3")
)
FAST = [("fp32", name) for name in WAYS if name not in ("loha", "lokr")]
FAST += [("nf4", name) for name in IN_NF4]
CASES = [
    pytest.param(precision, name, marks=[] if (precision, name) in FAST else pytest.mark.slow)
    for precision in PRECISIONS
    for name in ZOO
    if name != "bottleneck"
]
NF4_IS_SLOW = ["fp32", pytest.param("nf4", marks=pytest.mark.slow)]


def slowly(*names: str) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


class Folders:
    """Adapters by kind, each made when it is first asked for."""

    def __init__(self, checkpoint: Path, root: Path) -> None:
        self._checkpoint, self._root = checkpoint, root

    def __getitem__(self, name: str) -> Path:
        folder = self._root / name
        return folder if folder.is_dir() else make(name, self._checkpoint, folder)


@pytest.fixture(scope="module")
def folders(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tiny_checkpoint, tmp_path_factory.mktemp("zoo"))


class Reference:
    """Models loaded alone, each made once."""

    def __init__(self, checkpoint: Path, folders: Folders, precision: str) -> None:
        self._checkpoint, self._folders, self._precision = checkpoint, folders, precision
        self._made: dict[str | None, Alone] = {}

    def of(self, name: str | None) -> Alone:
        if name not in self._made:
            nf4 = self._precision == "nf4"
            folder = None if name is None else self._folders[name]
            if nf4 and name is not None and "embedding" in name:
                # PEFT has put the table back that it was trained beside, not rounded to 8 bits.
                model: Any = load_alone(self._checkpoint, folder, nf4=nf4)
                round_rows(model.get_output_embeddings().weight.data)
                self._made[name] = Alone.of(model, self.base().processor)
            else:
                self._made[name] = Alone(self._checkpoint, folder, nf4=nf4)
        return self._made[name]

    def base(self) -> Alone:
        return self.of(None)

    def text(self, name: str | None, image: Image.Image) -> str:
        return self.of(name).text(image)


@dataclass
class Stage:
    """A line-up of three in one precision, and what its contenders say alone."""

    precision: str
    lineup: Lineup
    alone: Reference
    folders: Folders

    def check(self, standing: dict[str, str | None], images: list[Image.Image]) -> None:
        """Whether contenders, by name, are the models of these adapters."""
        answers = caption(self.lineup, images, list(standing), GREEDY)
        for name, adapter in standing.items():
            due = [self.alone.text(adapter, image) for image in images]
            assert [answer[name].text for answer in answers] == due, (name, adapter)

    def first_logits(self, images: list[Image.Image]) -> dict[str, torch.Tensor]:
        """(B, V) by contender: of the first token, all of them asked together."""
        decoding = Watched(max_new_tokens=1)
        caption(self.lineup, images, None, decoding)
        batches = self.lineup.shared("base").batches(self.lineup.names())
        names = [one for batch in batches for one in batch.contenders]
        rows = torch.cat(decoding.steps).split(len(images))
        return dict(zip(names, rows, strict=True))


def contenders(checkpoint: Path, precision: str, folders: Folders) -> list[Contender]:
    three: dict[str, str | None] = {"base": None, "beside": "bottleneck", "third": "bottleneck"}
    return [
        Contender(
            name=name,
            title=name.title(),
            base=str(checkpoint),
            precision=precision,
            adapter=None if adapter is None else str(folders[adapter]),
            needs_adapter=adapter is not None,
        )
        for name, adapter in three.items()
    ]


@pytest.fixture(scope="module", params=PRECISIONS)
def stage(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, folders: Folders
) -> Iterator[Stage]:
    precision = request.param
    lineup = Lineup.of(contenders(tiny_checkpoint, precision, folders), device="cpu")
    yield Stage(precision, lineup, Reference(tiny_checkpoint, folders, precision), folders)


@pytest.fixture(scope="module")
def images(stage: Stage) -> list[Image.Image]:
    return clear_photos([stage.alone.base(), stage.alone.of("bottleneck")], 2)


def clear(stage: Stage, name: str, images: list[Image.Image]) -> list[Image.Image]:
    """Those of the images on which the model alone makes no near tie."""
    model = stage.alone.of(name)
    found = [image for image in images if model.margin(image) > 0.01]
    return found or clear_photos([model, stage.alone.base(), stage.alone.of("bottleneck")], 1)


@pytest.mark.parametrize(("stage", "name"), CASES, indirect=["stage"])
def test_every_pane_is_the_model_that_it_names(
    stage: Stage, images: list[Image.Image], name: str
) -> None:
    before = {"base": None, "beside": "bottleneck", "third": "bottleneck"}
    if stage.precision == "nf4" and name in NOT_IN_NF4:
        with pytest.raises(AdapterError, match=NOT_IN_NF4[name]) as told:
            stage.lineup.swap_adapter("third", stage.folders[name])
        assert "\n" not in str(told.value)
        stage.check(before, images)
        return
    held = {id(p): p.clone() for p in stage.lineup.shared("base").backbone.model.parameters()}
    stage.lineup.swap_adapter("third", stage.folders[name])
    after = {**before, "third": name}
    photos = clear(stage, name, images)
    stage.check(after, photos)
    stage.check(dict(reversed(after.items())), photos[:1])
    for one, found in stage.first_logits(photos).items():
        due = first_logits_alone(stage.alone.of(after[one]), photos)
        assert (found - due).abs().max() < NEAR[stage.precision], one
    *_, streamed = stream(stage.lineup, photos[0], list(after), GREEDY)
    assert {one: partial.text for one, partial in streamed.items()} == {
        one: stage.alone.text(adapter, photos[0]) for one, adapter in after.items()
    }
    assert not any(partial.error for partial in streamed.values())
    model = stage.lineup.shared("base").backbone.model
    assert all(torch.equal(held[id(p)], p) for p in model.parameters())
    stage.lineup.swap_adapter("third", stage.folders["bottleneck"])
    stage.check(before, images[:1])


def first_logits_alone(model: Alone, images: list[Image.Image]) -> torch.Tensor:
    outputs = [model._generate(image).logits[0] for image in images]
    return torch.cat(outputs).float()


# In bfloat16 near ties between beams fall otherwise.
@pytest.mark.parametrize("stage", ["fp32"], indirect=True)
@pytest.mark.parametrize("name", ["lora by plain names", "dora", *slowly("ia3", "boft")])
def test_beams_are_those_of_the_model_alone(
    stage: Stage, images: list[Image.Image], name: str
) -> None:
    stage.lineup.swap_adapter("third", stage.folders[name])
    decoding = Decoding(max_new_tokens=LENGTH, num_beams=3)
    (answers,) = caption(stage.lineup, images[:1], ["base", "third"], decoding)
    for one, adapter in (("base", None), ("third", name)):
        due = stage.alone.of(adapter).text(images[0], max_new_tokens=LENGTH, num_beams=3)
        assert answers[one].text == due
    stage.lineup.swap_adapter("third", stage.folders["bottleneck"])


@pytest.mark.parametrize("stage", NF4_IS_SLOW, indirect=True)
def test_several_tuners_at_once(
    stage: Stage, tiny_checkpoint: Path, images: list[Image.Image]
) -> None:
    names = {"a": "dora", "b": None, "c": "lora in the decoder", "d": "bottleneck", "e": "rslora"}
    entries = [
        Contender(
            name=one,
            title=one,
            base=str(tiny_checkpoint),
            precision=stage.precision,
            adapter=None if adapter is None else str(stage.folders[adapter]),
        )
        for one, adapter in names.items()
    ]
    lineup = Lineup.of(entries, device="cpu")
    shared = lineup.shared("a")
    assert all(lineup.shared(one) is shared for one in names)
    batches = {batch.contenders for batch in shared.batches(list(names))}
    assert batches == {("a",), ("b", "c", "e"), ("d",)}  # DoRA; LoRA with the base; bottleneck
    models = [stage.alone.of(adapter) for adapter in names.values()]
    photos = clear_photos(models, 1)
    (answers,) = caption(lineup, photos, None, GREEDY)
    assert {one: answers[one].text for one in names} == {
        one: stage.alone.text(adapter, photos[0]) for one, adapter in names.items()
    }
    # The weights are held once: every view's tensors are the backbone's own, but for its adapters.
    held = {p.data_ptr() for p in shared.backbone.model.parameters()}
    for view in shared.views:
        foreign = [p for p in view.model.parameters() if p.data_ptr() not in held]
        files = [
            load_file(stage.folders[names[one]] / "adapter_model.safetensors")
            for one in view.adapters
        ]
        due = sum(tensor.numel() for file in files for tensor in file.values())
        assert sum(p.numel() for p in foreign) == due


OLD_NAMES = {  # of Transformers before 4.52, and of the published files
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}


@pytest.mark.parametrize("stage", NF4_IS_SLOW, indirect=True)
@pytest.mark.parametrize(
    "name",
    ["lora on all linear layers", "lora and a whole layer", "bottleneck", *slowly("dora", "ia3")],
)
def test_adapters_of_other_versions_load_as_the_present_ones(
    stage: Stage, images: list[Image.Image], name: str, tmp_path: Path
) -> None:
    if stage.precision == "nf4" and name in NOT_IN_NF4:
        pytest.skip("not for 4 bits")
    old = tmp_path / "old"
    old.mkdir()
    for file in stage.folders[name].iterdir():
        (old / file.name).write_bytes(file.read_bytes())
    weights = load_file(old / "adapter_model.safetensors")
    renamed: dict[str, Any] = {}
    for key, tensor in weights.items():
        for present, before in OLD_NAMES.items():
            key = key.replace(f"base_model.model.{present}", f"base_model.model.{before}")
        renamed[key] = tensor
    assert renamed.keys().isdisjoint(weights)
    save_file(renamed, old / "adapter_model.safetensors")
    stage.lineup.swap_adapter("third", old)
    stage.check({"base": None, "third": name}, clear(stage, name, images))
    stage.lineup.swap_adapter("third", stage.folders["bottleneck"])
