from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from qvla.bench import arrangements, core, turns
from qvla.captioning.decoding import Decoding
from qvla.captioning.shared_backbone import SharedBackbone
from qvla.cli import main as cli
from qvla.errors import QvlaError
from qvla.records import store as records
from qvla.settings import Settings, load_settings
from tests.support.alone import LENGTH, Alone, Weights, make_weights, photos


@pytest.fixture(scope="module")
def weights(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return make_weights(tiny_checkpoint, tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def settings(weights: Weights) -> Settings:
    return load_settings(
        model=str(weights.model),
        adapter=str(weights.adapter),
        nf4_adapter=str(weights.nf4_adapter),
        device="cpu",
        precision="fp32",
    )


@pytest.fixture(scope="module")
def separate(settings: Settings) -> dict[str, SharedBackbone]:
    return arrangements.load_separately(settings)


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    rows = []
    (tmp_path / "resized").mkdir()
    for index, photo in enumerate(photos(3)):
        photo.save(tmp_path / "resized" / f"{index}.png")
        rows.append(f"here,test,{index}.png,a caption")
    (tmp_path / "captions.csv").write_text("\n".join(["source,split,image,caption_1", *rows]))
    yield tmp_path


def test_the_reports_loop_says_what_generate_says_with_its_cache(
    weights: Weights, separate: dict[str, SharedBackbone]
) -> None:
    images = photos(3)
    for name, adapter in (("base", None), ("adapter", weights.adapter)):
        alone = Alone(weights.model, adapter)
        said = arrangements.caption_without_cache(
            separate[name], name, images, Decoding(max_new_tokens=LENGTH)
        )
        assert said == [alone.text(image) for image in images]


def test_the_reports_loop_keeps_nothing_and_passes_the_photo_at_every_step(
    separate: dict[str, SharedBackbone],
) -> None:
    model = separate["base"].backbone.model
    seen: list[tuple[int, tuple[int, ...]]] = []
    hook = model.register_forward_pre_hook(
        lambda module, args, given: seen.append(
            (given["input_ids"].shape[1], tuple(given["pixel_values"].shape[:2]))
        ),
        with_kwargs=True,
    )
    decoding = arrangements.fixed_length(separate["base"], 4)
    arrangements.caption_without_cache(separate["base"], "base", photos(2), decoding)
    hook.remove()
    lengths = [length for length, _ in seen]
    first = lengths[0]
    assert lengths == [first, first + 1, first + 2, first + 3] * 2
    assert {pixels for _, pixels in seen} == {(1, 3)}


def test_separate_models_share_no_weights_and_answer_each_as_themselves(
    weights: Weights, separate: dict[str, SharedBackbone]
) -> None:
    storages = [
        {parameter.data_ptr() for parameter in model.backbone.model.parameters()}
        for model in separate.values()
    ]
    assert not (storages[0] & storages[1] or storages[0] & storages[2] or storages[1] & storages[2])
    images = photos(1)
    decoding = Decoding(max_new_tokens=LENGTH)
    expected = {
        "base": Alone(weights.model).text(images[0]),
        "adapter": Alone(weights.model, weights.adapter).text(images[0]),
        "qvla": Alone(weights.model, weights.nf4_adapter, nf4=True).text(images[0]),
    }
    for way in (arrangements.caption_in_turn, arrangements.caption_side_by_side):
        answers = way(separate, images, decoding)
        assert {name: own[0].text for name, own in answers.items()} == expected


def test_fixed_length_keeps_going_where_the_model_would_end(
    weights: Weights, separate: dict[str, SharedBackbone]
) -> None:
    shared = separate["base"]
    image = photos(1)[0]
    word = Alone(weights.model).text(image).split()[2]  # becomes the end of text
    early = shared.backbone.processor.tokenizer.convert_tokens_to_ids(word)
    config = shared.backbone.model.generation_config
    before = config.eos_token_id
    config.eos_token_id = [1, early]
    try:
        base = {"base": shared}
        natural = arrangements.caption_in_turn(base, [image], Decoding(max_new_tokens=8))
        fixed = arrangements.caption_in_turn(base, [image], arrangements.fixed_length(shared, 8))
    finally:
        config.eos_token_id = before
    assert natural["base"][0].tokens <= 3
    assert fixed["base"][0].tokens == 8


def test_cases_take_turns_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    calls: list[tuple[str, int]] = []

    def work(name: str, seconds: float):
        def case(turn: int) -> None:
            nonlocal now
            now += seconds * (turn + 1)
            calls.append((name, turn))

        return case

    monkeypatch.setattr(turns, "clock", lambda device: now)
    times = turns.in_turns({"a": work("a", 1), "b": work("b", 3)}, 2, torch.device("cpu"))
    assert calls == [("a", 0), ("b", 0), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert times == {"a": (1, 2), "b": (3, 6)}


def test_a_figure_compares_medians_and_shows_the_range_of_turns() -> None:
    figure = turns.Figure("x_ratio", "ours", "other", "s", (1.0, 2.0, 9.0), (4.0, 4.0, 3.0))
    assert figure.ratio == 0.5
    assert figure.spread == (0.25, 3.0)


@pytest.mark.slow
def test_the_core_suite_from_the_command_line(
    weights: Weights, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "records"
    where = {
        "--model": weights.model,
        "--adapter": weights.adapter,
        "--nf4-adapter": weights.nf4_adapter,
        "--data": data,
        "--records": kept,
        "--device": "cpu",
    }
    small = {"--repeats": 1, "--memory-repeats": 1, "--photos": 2, "--new-tokens": 3}
    options = [str(word) for pair in (where | small).items() for word in pair]
    code = cli.main(["bench", "--suite", "core", *options, "--json"])
    assert code == 0
    printed = json.loads(capsys.readouterr().out)
    [record] = records.read_all(kept)
    assert printed == record.model_dump(mode="json")

    numbers = record.numbers
    assert numbers["three_way_to_base_ratio"] == pytest.approx(
        numbers["three_way_seconds"] / numbers["base_alone_seconds"]
    )
    assert numbers["batch_to_report_loop_ratio"] == pytest.approx(
        numbers["batch_seconds"] / numbers["report_loop_seconds"]
    )
    assert numbers["report_loop_same_captions_ratio"] == 1
    base = _float_bytes(weights.model / "model.safetensors")
    adapter = _float_bytes(weights.adapter / "adapter_model.safetensors")
    shared = numbers["lineup_weights_bytes"]
    assert numbers["separate_weights_bytes"] - shared == base  # what sharing a backbone saves
    assert base + adapter < shared < 2 * base + 2 * adapter
    assert numbers["lineup_loaded_bytes"] > 0
    assert numbers["separate_peak_bytes"] > 0

    assert (record.what, record.variants) == ("bench/core", ("base", "adapter", "qvla"))
    assert record.model == weights.model.name
    assert record.data.items == 2
    photos_used = [data / "resized" / f"{index}.png" for index in range(2)]
    assert record.data.fingerprint == records.fingerprint(photos_used)
    assert (record.protocol["max_new_tokens"], record.protocol["stop"]) == (3, "fixed")


def test_a_line_up_that_is_not_whole_cannot_be_compared(weights: Weights) -> None:
    with pytest.raises(QvlaError, match="Adapter is not available"):
        arrangements.load_lineup(load_settings(model=str(weights.model), device="cpu"))


@pytest.mark.parametrize("field", ["photos", "repeats", "memory_repeats", "new_tokens"])
def test_counts_below_one_are_refused(field: str) -> None:
    with pytest.raises(QvlaError, match=field.replace("_", "-")):
        core.Plan(Path("."), **{field: 0})


def _float_bytes(path: Path) -> int:
    """Bytes in fp32 of all tensors of the file."""
    with safe_open(path, "pt") as file:
        return sum(4 * file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
