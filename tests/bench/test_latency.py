from __future__ import annotations

import json
import shutil
from argparse import Namespace
from itertools import cycle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from qvla.bench import arrangements, latency
from qvla.bench.bandwidth import seconds_to_read
from qvla.bench.latency import Plan, Turn
from qvla.bench.random_weights import write_checkpoint
from qvla.captioning.contenders import VARIANTS
from qvla.captioning.decoding import Decoding
from qvla.captioning.engine import caption
from qvla.captioning.generation import Caption
from qvla.captioning.lineup import Lineup
from qvla.cli import main as cli
from qvla.data.imagery import open_image
from qvla.errors import QvlaError
from qvla.records import store as records
from qvla.records.store import Record
from qvla.settings import Settings, load_settings
from tests.support.alone import photos, save_adapter
from tests.support.memory_clock import SLOWEST, SPEED, MemoryClock

TOKENS = 5
ENDS = ("/lowest", "/highest")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def settings(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    made = write_checkpoint(str(tiny_checkpoint), tmp_path_factory.mktemp("random"))
    return load_settings(**made, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rows = []
    for index, photo in enumerate(photos(3)):
        photo.save(folder / f"{index}.png")
        rows.append(f"here,test,{index}.png,a caption")
    (folder / "captions.csv").write_text("\n".join(["source,split,image,caption_1", *rows]))
    return folder


@pytest.fixture(scope="module")
def kept(tiny_checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the record of one run from the command line, with random weights.

    Timed by a clock that says what the figures must be, however busy the machine is.
    """
    folder = tmp_path_factory.mktemp("records")
    where = {"--model": tiny_checkpoint, "--data": data, "--records": folder, "--device": "cpu"}
    words = [str(word) for pair in where.items() for word in pair]
    small = ["--repeats", "3", "--new-tokens", str(TOKENS), "--batch-sizes", "2", "1"]
    with pytest.MonkeyPatch.context() as patch:
        MemoryClock().install(patch)
        patch.setattr(latency, "LONGEST_NATURAL", TOKENS + 3)
        assert cli.main(["bench", "--suite", "latency", "--random-weights", *words, *small]) == 0
    return folder


@pytest.fixture(scope="module")
def record(kept: Path) -> Record:
    [only] = records.read_all(kept)
    return only


def test_the_record_names_every_case_and_nothing_else(
    record: Record, tiny_checkpoint: Path, data: Path
) -> None:
    timed = ("first_token_seconds", "token_seconds", "images_per_second")
    expected = {f"{variant}/floor_token_seconds" for variant in VARIANTS}
    for variant in VARIANTS:
        for stop in ("fixed", "natural"):
            for batch in (1, 2):
                stem = f"{variant}/{stop}/batch_{batch}"
                expected |= {f"{stem}/{name}{end}" for name in timed for end in ("", *ENDS)}
                expected.add(f"{stem}/tokens")
    assert set(record.numbers) == expected
    assert (record.what, record.variants) == ("bench/latency", VARIANTS)
    assert record.model == f"{tiny_checkpoint.name} (random weights)"
    assert record.data.items == 3
    assert record.data.fingerprint == records.fingerprint(sorted(data.glob("*.png")))
    assert record.protocol["left_out"] == []


def test_medians_lie_in_their_ranges_and_times_add_up(record: Record) -> None:
    for variant in VARIANTS:
        for stop in ("fixed", "natural"):
            for batch in (1, 2):
                stem = f"{variant}/{stop}/batch_{batch}"
                own = {
                    name.removeprefix(f"{stem}/"): value
                    for name, value in record.numbers.items()
                    if name.startswith(f"{stem}/")
                }
                for name in ("first_token_seconds", "token_seconds", "images_per_second"):
                    assert 0 < own[f"{name}/lowest"] <= own[name] <= own[f"{name}/highest"]
                if stop == "natural":
                    continue
                assert own["tokens"] == TOKENS
                # The quickest turn cannot have taken less than the quickest of its steps.
                least = own["first_token_seconds/lowest"]
                least += (TOKENS - 1) * own["token_seconds/lowest"]
                assert batch / own["images_per_second/highest"] >= least * (1 - 1e-9)
                most = own["first_token_seconds/highest"]
                most += (TOKENS - 1) * own["token_seconds/highest"]
                assert batch / own["images_per_second/lowest"] <= most * (1 + 1e-9)


def test_the_floor_is_the_time_of_a_token_that_takes_nothing_but_reading(record: Record) -> None:
    for variant in VARIANTS:
        floor = record.numbers[f"{variant}/floor_token_seconds"]
        for end in ("/lowest", "", "/highest"):
            token = record.numbers[f"{variant}/fixed/batch_1/token_seconds{end}"]
            assert 0 < floor * (1 - 1e-9) <= token <= SLOWEST * floor * (1 + 1e-9)
        read = record.protocol["step_bytes"][variant]
        speed = record.protocol["bandwidth_bytes_per_second"][variant]
        assert floor == pytest.approx(read / speed)


def test_the_table_shows_the_records_numbers(record: Record) -> None:
    lines = latency.table(record).splitlines()
    [line] = [line for line in lines if line.split()[:3] == ["QVLA", "fixed", "2"]]
    for name, scale in (("first_token_seconds", 1000), ("images_per_second", 1)):
        number = record.numbers[f"qvla/fixed/batch_2/{name}"]
        assert f"{scale * number:.4g} (" in line
    assert f"{1000 * record.numbers['qvla/floor_token_seconds']:.2f}" in line
    assert sum(line.startswith(("Base", "Adapter", "QVLA")) for line in lines) == 12


def test_a_step_reads_the_language_model_its_head_and_one_adapter(settings: Settings) -> None:
    lineup = arrangements.load_lineup(settings)
    base, adapter, qvla = (latency.step_bytes(lineup.shared(name), name) for name in VARIANTS)
    decoder = _parameters(Path(settings.model) / "model.safetensors", "language_model.")
    own = _parameters(Path(settings.adapter) / "adapter_model.safetensors", "")
    assert base == 4 * decoder
    assert adapter == 4 * (decoder + own)
    # Half a byte a weight in the layers, one in the table, four in the adapter, and some scales.
    table = _parameters(Path(settings.model) / "model.safetensors", "language_model.model.embed")
    least = (decoder - table) / 2 + table + 4 * own
    assert least < qvla < 1.1 * least + 4 * 273 * 21


def test_natural_captions_end_where_the_model_ends_them(
    settings: Settings, data: Path, tmp_path: Path
) -> None:
    lineup = arrangements.load_lineup(settings, ["base"])
    photo = open_image(data / "0.png")
    [answer] = caption(lineup, [photo], ["base"], Decoding(max_new_tokens=TOKENS))
    tokenizer = lineup.shared("base").backbone.processor.tokenizer
    early = tokenizer.convert_tokens_to_ids(answer["base"].text.split()[-1])
    folder = shutil.copytree(settings.model, tmp_path / "early")
    generation = json.loads((folder / "generation_config.json").read_text())
    generation["eos_token_id"] = [1, early]
    (folder / "generation_config.json").write_text(json.dumps(generation))

    plan = Plan(data, (1,), photos=1, repeats=2, new_tokens=TOKENS)
    numbers = latency.measure(
        plan, settings.model_copy(update={"model": str(folder)}), ["base"]
    ).numbers
    assert numbers["base/natural/batch_1/tokens"] <= TOKENS
    assert numbers["base/fixed/batch_1/tokens"] == TOKENS
    ended = latency.measure(plan, settings, ["base"]).numbers
    assert ended["base/natural/batch_1/tokens"] > TOKENS


def test_a_batch_that_memory_does_not_hold_is_left_out_with_a_warning(
    settings: Settings,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    load = arrangements.load_lineup

    def load_into_little_memory(*args: object) -> Lineup:
        def refuse(module: torch.nn.Module, args: tuple, given: dict) -> None:
            if len(given["input_ids"]) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")

        lineup = load(*args)
        model = lineup.shared("base").backbone.model
        model.register_forward_pre_hook(refuse, with_kwargs=True)
        return lineup

    monkeypatch.setattr(arrangements, "load_lineup", load_into_little_memory)
    plan = Plan(data, (1, 2, 3, 4), repeats=1, new_tokens=2)
    record = latency.measure(plan, settings, ["base"])
    measured = {name.split("/")[2] for name in record.numbers if "/batch_" in name}
    assert measured == {"batch_1", "batch_2"}
    assert record.protocol["left_out"] == [
        f"base/{stop}/batch_{batch}" for batch in (3, 4) for stop in ("fixed", "natural")
    ]
    assert "batches of 3 and more are left out" in caplog.text
    assert "base/natural/batch_4" in latency.table(record)


def test_a_token_is_a_step_of_the_batch_until_its_last_caption_ends() -> None:
    captions = (Caption("a", 3, 1.0, 1.5), Caption("b", 5, 1.0, 3.0), Caption("c", 1, 1.0, 1.0))
    turn = Turn(3.25, captions)
    assert (turn.first_token_seconds, turn.token_seconds) == (1.0, 0.5)
    assert Turn(1.0, captions[2:]).token_seconds is None


def test_reading_more_takes_longer_in_proportion_beyond_the_largest_tensor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, read = 0.0, []
    slower = cycle((1.0, 1.7, 3.0))
    add_up = torch.Tensor.sum

    def timed(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal now
        now += next(slower) * tensor.nbytes / SPEED
        read.append(tensor.nbytes)
        return add_up(tensor)

    monkeypatch.setattr("qvla.bench.bandwidth.LARGEST", 2**16)
    monkeypatch.setattr("qvla.bench.bandwidth.READS", 1)
    monkeypatch.setattr("qvla.bench.bandwidth.clock", lambda device: now)
    monkeypatch.setattr(torch.Tensor, "sum", timed)
    for size in (2**10, 2**16, 2**40):
        read.clear()
        assert seconds_to_read(size, CPU) == pytest.approx(size / SPEED)  # the best of its timings
        assert set(read) == {min(size, 2**16)}  # 2^40 bytes were not held, nor read
    monkeypatch.undo()
    assert seconds_to_read(2**24, CPU) > 2**24 / 1e12  # no CPU reads a TB a second


def test_variants_are_those_named_or_those_with_weights(settings: Settings) -> None:
    assert arrangements.chosen_variants("qvla, base,base", settings) == ("base", "qvla")
    assert arrangements.chosen_variants(None, settings) == VARIANTS
    without = settings.model_copy(update={"nf4_adapter": None})
    assert arrangements.chosen_variants(None, without) == ("base", "adapter")
    for named in ("bass", ","):
        with pytest.raises(QvlaError, match=r"--variant takes some of base, adapter, qvla"):
            arrangements.chosen_variants(named, settings)


@pytest.mark.parametrize("field", ["photos", "repeats", "new_tokens", "batch_sizes"])
def test_counts_below_one_are_refused(field: str, settings: Settings) -> None:
    given = {"photos": 1, "repeats": 1, "new_tokens": 1, "batch_sizes": (1,)}
    given[field] = (1, 0) if field == "batch_sizes" else 0
    options = Namespace(data=Path("."), variant=None, **given)
    with pytest.raises(QvlaError, match="--" + field.replace("_", "-")):
        latency.run(options, settings)


def _parameters(path: Path, prefix: str) -> int:
    """Parameters in the file's tensors whose names begin so."""
    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        return sum(file.get_tensor(name).numel() for name in names)


def test_contenders_of_a_line_up_are_measured_by_their_names(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    adapter = save_adapter(tiny_checkpoint, tmp_path / "tuned", seed=1)
    file = tmp_path / "lineup.yaml"
    file.write_text(f"- title: As it is\n- title: Tuned\n  adapter: {adapter}\n")
    settings = Settings(model=str(tiny_checkpoint), lineup=file, device="cpu", precision="fp32")
    names = arrangements.chosen_variants(None, settings)
    assert names == ("as-it-is", "tuned")
    assert arrangements.chosen_variants("tuned", settings) == ("tuned",)
    with pytest.raises(QvlaError, match="some of as-it-is, tuned, not 'base'"):
        arrangements.chosen_variants("base", settings)
    lineup = arrangements.load_lineup(settings, names)
    shared = lineup.shared("tuned")
    assert latency.step_bytes(shared, "tuned") > latency.step_bytes(shared, "as-it-is") > 0
