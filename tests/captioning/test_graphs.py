"""Steps that are recorded once and replayed, as CUDA graphs are, on a tape on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from qvla.captioning import cohort, engine, graphs
from qvla.captioning.contenders import Contender, default_contenders
from qvla.captioning.decoding import Decoding
from qvla.captioning.desk import Desk, greedy
from qvla.captioning.engine import caption
from qvla.captioning.generation import Generation
from qvla.captioning.lineup import Lineup
from qvla.captioning.prompts import CAPTION_PREFIX, prompt_of
from qvla.methods.multitask import MultiTaskConfig
from qvla.models.backbone import load_backbone
from qvla.records.measure import stream_clock
from tests.support.alone import Alone, Weights, photos
from tests.support.peft_zoo import DECODER, NOT_IN_NF4, ZOO, make
from tests.support.tape import taped

LENGTH = 14
PHOTOS = photos(5, seed=3)
DECODING = Decoding(max_new_tokens=LENGTH)
# They make a tensor of a number of Python's in every step.
NOT_RECORDED = ("loha", "lora and trainable tokens")
FAST = [("bottleneck with norms", "nf4"), ("multi-task", "fp32"), ("cross-modal", "fp32")]


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records on tapes; a number for each replay."""
    played: list[int] = []

    def record(work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        again = taped(work)

        def counted() -> torch.Tensor:
            played.append(1)
            return again()

        return counted

    monkeypatch.setattr(graphs, "recorder_of", lambda device: record)
    return played


def test_replayed_steps_say_what_each_model_says_alone(
    lineup: Lineup, plays: list[int], weights: Weights
) -> None:
    alone = {"base": Alone(weights.model), "adapter": Alone(weights.model, weights.adapter)}
    for _ in range(2):
        said = caption(lineup, PHOTOS, ["base", "adapter"], DECODING)
        for photo, captions in zip(PHOTOS, said, strict=True):
            for name, model in alone.items():
                assert captions[name].text == model.text(photo, max_new_tokens=LENGTH)
    assert len(plays) > 2 * graphs.STEPS
    assert not lineup.shared("base").graphs.faults


def test_rows_come_and_go_between_replays(lineup: Lineup, plays: list[int]) -> None:
    """Captions of different lengths, so that places are freed, filled and closed up."""
    shared, names = lineup.shared("base"), ["adapter", "base"]
    lengths = [3, 14, 7, 12, 10]
    due = [caption(lineup, [photo], ["adapter"], DECODING)[0]["adapter"].text for photo in PHOTOS]
    words = {id(photo): text.split() for photo, text in zip(PHOTOS, due, strict=True)}
    desk = Desk(shared)
    assert desk.open(0)
    waiting = [
        Generation(shared, names, [photo], Decoding(max_new_tokens=length), CAPTION_PREFIX)
        for photo, length in zip(PHOTOS, lengths, strict=True)
    ]
    asked = list(waiting)
    steps = 0
    while waiting or desk.busy:
        if waiting and steps % 4 == 0:
            desk.begin([waiting.pop(0)])
        desk.step()
        steps += 1
    desk.close()
    for generation, length in zip(asked, lengths, strict=True):
        said = generation.result()["adapter"][0]
        own = words[id(generation.images[0])]
        assert said.tokens <= length
        assert said.text.split() == own[: len(said.text.split())]
        assert said.tokens == length or len(said.text.split()) == len(own)
    assert plays and not shared.graphs.faults


def test_who_leaves_takes_nothing_from_the_others(lineup: Lineup, plays: list[int]) -> None:
    shared = lineup.shared("base")
    (due,) = caption(lineup, PHOTOS[:1], ["adapter"], DECODING)
    desk = Desk(shared)
    assert desk.open(0)
    asked = [Generation(shared, ["adapter"], [one], DECODING, CAPTION_PREFIX) for one in PHOTOS[:4]]
    desk.begin(asked)
    for step in range(LENGTH):
        if step in (1, graphs.STEPS, graphs.STEPS + 2):
            asked.pop().cancelled.set()
        desk.step()
    desk.close()
    (said,) = asked[0].result()["adapter"]
    assert said.text == due["adapter"].text
    assert not shared.graphs.faults


@pytest.mark.parametrize("late", [False, True])
def test_what_is_read_a_step_late_is_the_same(
    lineup: Lineup, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    monkeypatch.setattr(cohort, "reads_late", lambda device: late)
    sampled = Decoding(max_new_tokens=LENGTH, temperature=1.2, seed=5)
    for decoding in (DECODING, sampled):
        (said,) = caption(lineup, PHOTOS[:1], ["base", "adapter"], decoding)
        (alone,) = caption(lineup, PHOTOS[:1], ["base"], decoding)
        assert said["base"].text == alone["base"].text
        assert said["base"].tokens == alone["base"].tokens <= LENGTH
    assert said["base"].seconds >= said["base"].seconds_to_first_token > 0


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(name, precision, marks=[] if (name, precision) in FAST else pytest.mark.slow)
        for name in ZOO
        for precision in ("fp32", "nf4")
        if precision == "fp32" or name not in NOT_IN_NF4
    ],
)
def test_steps_of_every_kind_of_adapter_can_be_replayed(
    name: str, precision: str, tiny_checkpoint: Path, tmp_path: Path, plays: list[int]
) -> None:
    backbone = load_backbone(tiny_checkpoint, precision, device="cpu")
    folder = make(name, tiny_checkpoint, tmp_path)
    model = PeftModel.from_pretrained(backbone.model, folder).eval()
    asked = (backbone, model, PHOTOS[:2], CAPTION_PREFIX, LENGTH)
    said = greedy(*asked)
    assert (len(plays) > graphs.STEPS) == (name not in NOT_RECORDED)
    if precision == "fp32":  # in bfloat16 the rounding of another shape decides between ties
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(graphs, "recorder_of", lambda device: None)
            assert greedy(*asked) == said


def test_adapters_of_pefts_own_answer_in_batches_of_their_own(
    tiny_checkpoint: Path, tmp_path: Path, plays: list[int]
) -> None:
    folders = {
        name: make("lora in the decoder", tiny_checkpoint, tmp_path / name, seed=seed)
        for seed, name in enumerate(("one", "two"))
    }
    lineup = Lineup.of(
        [
            Contender(
                name=name,
                title=name.title(),
                base=str(tiny_checkpoint),
                precision="fp32",
                adapter=None if folder is None else str(folder),
                needs_adapter=folder is not None,
            )
            for name, folder in {"base": None, **folders}.items()
        ],
        device="cpu",
    )
    alone = {name: Alone(tiny_checkpoint, folder) for name, folder in folders.items()}
    alone["base"] = Alone(tiny_checkpoint)
    for _ in range(2):
        (said,) = caption(lineup, PHOTOS[:1], ["one", "base", "two"], DECODING)
        for name, model in alone.items():
            assert said[name].text == model.text(PHOTOS[0], max_new_tokens=LENGTH), name
    assert plays and not lineup.shared("base").graphs.faults


def test_tasks_of_one_adapter_share_what_was_recorded(
    tiny_checkpoint: Path, tmp_path: Path, plays: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = partial(MultiTaskConfig, r=4, target_modules=DECODER, tasks=["caption", "vqa"])
    monkeypatch.setitem(ZOO, "tasks", config)
    folder = make("tasks", tiny_checkpoint, tmp_path)
    said = {}
    for setting in ("off", "auto"):
        one = Contender(
            name="one",
            title="One",
            base=str(tiny_checkpoint),
            precision="fp32",
            adapter=str(folder),
            needs_adapter=True,
        )
        lineup = Lineup.of([one], device="cpu", graphs=setting)
        prompts = ("describe it", CAPTION_PREFIX, prompt_of("many trees near the beach"))
        said[setting] = [
            caption(lineup, PHOTOS[:1], ["one"], DECODING, prompt)[0]["one"].text
            for prompt in prompts
        ]
    assert said["auto"] == said["off"]
    assert len(set(said["off"])) > 1 and plays


def test_a_swapped_adapter_answers_anew(lineup: Lineup, weights: Weights, plays: list[int]) -> None:
    for folder in (weights.other_adapter, weights.adapter):
        caption(lineup, PHOTOS[:2], ["adapter"], DECODING)
        lineup.swap_adapter("adapter", folder)
        alone = Alone(weights.model, folder)
        said = caption(lineup, PHOTOS[:2], ["adapter"], DECODING)
        due = [alone.text(photo, max_new_tokens=LENGTH) for photo in PHOTOS[:2]]
        assert [one["adapter"].text for one in said] == due
    assert plays and not lineup.shared("base").graphs.faults


def broken(work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    raise RuntimeError("operation not permitted when stream is capturing")


def stale(work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """A record that does not see what changes: it gives the first result again and again."""
    first = work().clone()
    return lambda: first


@pytest.mark.parametrize("record", [broken, stale])
def test_a_record_that_is_not_right_is_not_used(
    record: object, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "recorder_of", lambda device: record)
    lineup = Lineup.load(weights.model, adapter=weights.adapter, precision="fp32", device="cpu")
    alone = Alone(weights.model, weights.adapter)
    for _ in range(2):
        said = caption(lineup, PHOTOS, ["base", "adapter"], DECODING)
        due = [alone.text(photo, max_new_tokens=LENGTH) for photo in PHOTOS]
        assert [one["adapter"].text for one in said] == due
    (fault,) = lineup.shared("base").graphs.faults
    assert "capturing" in fault or "other tokens" in fault


def test_after_a_rehearsal_nobody_waits_for_recording(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[object] = []

    def record(work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        recorded.append(work)
        return taped(work)

    monkeypatch.setattr(graphs, "recorder_of", lambda device: record)
    monkeypatch.setattr(engine, "recorder_of", lambda device: record)
    lineup = Lineup.load(weights.model, adapter=weights.adapter, precision="fp32", device="cpu")
    engine.rehearse(lineup)
    before = len(recorded)
    caption(lineup, PHOTOS[:1], ["base", "adapter"], DECODING)
    assert before == len(recorded) > 0


def test_nothing_is_recorded_where_it_is_switched_off(weights: Weights, plays: list[int]) -> None:
    contenders = default_contenders(str(weights.model), adapter=str(weights.adapter))
    lineup = Lineup.of(contenders, device="cpu", variants=["adapter"], graphs="off")
    caption(lineup, PHOTOS[:1], ["adapter"], DECODING)
    assert not plays


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["base", "adapter", "qvla"])
def test_cuda_graphs_say_what_steps_say(name: str, weights: Weights) -> None:
    said = {}
    for graphs_setting in ("auto", "off"):
        contenders = default_contenders(
            str(weights.model),
            adapter=str(weights.adapter),
            nf4_adapter=str(weights.nf4_adapter),
            precision="fp32",
        )
        lineup = Lineup.of(contenders, device="cuda", variants=[name], graphs=graphs_setting)
        said[graphs_setting] = [
            [one[name].text for one in caption(lineup, PHOTOS[:count], [name], DECODING)]
            for count in (5, 1, 3, 5)
        ]
        assert not lineup.shared(name).graphs.faults
    assert said["auto"] == said["off"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_others_may_look_at_the_clock_while_a_step_is_recorded() -> None:
    device, held = torch.device("cuda"), torch.ones(4, device="cuda")

    def beside() -> float:
        with torch.cuda.stream(torch.cuda.Stream()):
            return stream_clock(device)

    def work() -> torch.Tensor:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(beside).result()
        return held + 1

    again = graphs.cuda_graph(work)
    held.fill_(2)
    assert again().tolist() == [3, 3, 3, 3]
