"""Tasks of a bank: held against each adapter loaded alone, and against what may be in memory."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from qvla.captioning.bank import MOST_TASKS, Bank, bank_of
from qvla.captioning.contenders import Contender, LineupError
from qvla.captioning.decoding import Decoding
from qvla.captioning.engine import caption, stream
from qvla.captioning.generation import CaptioningError
from qvla.captioning.lineup import Lineup
from qvla.models.adapters import AdapterError
from qvla.settings import Settings
from tests.support.alone import LENGTH, Alone, clear_photos, save_adapter
from tests.support.held import held
from tests.support.peft_zoo import make
from tests.support.waiting import PATIENCE

DECODING = Decoding(max_new_tokens=LENGTH)
BOTTLENECKS = ("fields", "roofs", "ships")  # all of one size
TASKS = (*BOTTLENECKS, "trees")


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three bottlenecks and a LoRA, and what is none of them."""
    folder = tmp_path_factory.mktemp("bank")
    for seed, name in enumerate(BOTTLENECKS, start=1):
        save_adapter(tiny_checkpoint, folder / name, seed=seed)
    make("lora in the decoder", tiny_checkpoint, folder / "trees")
    (folder / "bank.yaml").write_text("ships: {title: Ships and harbours}\n")
    (folder / "notes").mkdir()
    (folder / "Not A Name").mkdir()
    (folder / "elsewhere").symlink_to(save_adapter(tiny_checkpoint, folder / ".aside", seed=9))
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path, tiny_checkpoint: Path) -> dict[str, Alone]:
    return {
        "base": Alone(tiny_checkpoint),
        **{name: Alone(tiny_checkpoint, folder / name) for name in TASKS},
    }


@pytest.fixture(scope="module")
def photo(alone: dict[str, Alone]) -> Image.Image:
    return clear_photos(alone.values(), 1)[0]


@pytest.fixture(scope="module")
def expected(alone: dict[str, Alone], photo: Image.Image) -> dict[str, str]:
    said = {name: model.text(photo) for name, model in alone.items()}
    assert len(set(said.values())) == len(said)
    return said


@pytest.fixture(scope="module")
def size(folder: Path) -> int:
    """Bytes of one of the three: their tensors are held as they are in the file."""
    tensors = load_file(folder / "ships" / "adapter_model.safetensors").values()
    return sum(tensor.numel() * 4 for tensor in tensors)


def made(checkpoint: Path, folder: Path, limit: float = 2**30) -> Lineup:
    base = Contender(name="base", title="Base", base=str(checkpoint), precision="fp32")
    bank = Bank(folder, str(checkpoint), "fp32", int(limit))
    return Lineup.of([base], device="cpu", bank=bank)


def texts(lineup: Lineup, photo: Image.Image, *names: str) -> dict[str, str]:
    (answers,) = caption(lineup, [photo], names or None, DECODING)
    return {name: answer.text for name, answer in answers.items()}


def test_a_bank_offers_its_adapters_and_says_why_not_the_rest(
    folder: Path, tiny_checkpoint: Path
) -> None:
    bank = Bank(folder, str(tiny_checkpoint))
    tasks = bank.tasks()
    assert tuple(tasks) == TASKS
    assert [tasks[name].title for name in ("ships", "trees")] == ["Ships and harbours", "trees"]
    problems = bank.problems()
    assert "rename" in problems["Not A Name"]
    assert "adapter_config.json" in problems["notes"]
    assert "link" in problems["elsewhere"]
    assert set(problems) == {"Not A Name", "notes", "elsewhere"}
    assert "contender" in bank.problems(["ships"])["ships"]
    assert "ships" not in bank.tasks(["ships"])
    for name in ("../bank/ships", ".aside", "elsewhere", "", "/", "ships/../ships"):
        assert bank.find(name) is None


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("ships: {precision: int3}\n", "ships", "precision"),
        ("ships: {folder: /}\n", "ships", "nothing else"),
        ("ships: 3\n", "ships", "nothing else"),
        ("- ships\n", "bank", "lines of"),
        ("ships: {\n", "bank", "readable YAML"),
    ],
)
def test_a_wrong_bank_file_is_told(tmp_path: Path, text: str, name: str, words: str) -> None:
    folder = tmp_path / "bank"
    for task in ("roofs", "ships"):
        (folder / task).mkdir(parents=True)
        (folder / task / "adapter_config.json").write_text("{}")
    (folder / "bank.yaml").write_text(text)
    bank = Bank(folder, "model")
    assert words in bank.problems()[name]
    assert list(bank.tasks()) == (["roofs"] if name == "ships" else [])


def test_a_bank_has_bounds_and_is_a_folder(tmp_path: Path) -> None:
    for number in range(MOST_TASKS + 1):
        (tmp_path / f"task-{number:03}").mkdir()
        (tmp_path / f"task-{number:03}" / "adapter_config.json").touch()
    bank = bank_of(Settings(bank=tmp_path, bank_mb=3, model="model"))
    assert bank is not None
    assert bank.limit_bytes == 3 * 2**20
    assert len(bank.tasks()) == MOST_TASKS
    assert str(MOST_TASKS) in bank.problems()[f"task-{MOST_TASKS}"]
    assert bank_of(Settings()) is None
    with pytest.raises(LineupError, match="not a folder"):
        bank_of(Settings(bank=tmp_path / "none"))


def test_an_adapter_trained_on_nf4_answers_there(tmp_path: Path) -> None:
    for method in ("lora", "qlora"):
        (tmp_path / method).mkdir()
        (tmp_path / method / "adapter_config.json").touch()
        (tmp_path / method / "run.json").write_text(f'{{"recipe": {{"method": "{method}"}}}}')
    tasks = Bank(tmp_path, "model", "bf16").tasks()
    assert [task.precision for task in tasks.values()] == ["bf16", "nf4"]


def test_tasks_answer_as_if_loaded_alone_and_mix_with_the_base(
    folder: Path, tiny_checkpoint: Path, photo: Image.Image, expected: dict[str, str], size: int
) -> None:
    lineup = made(tiny_checkpoint, folder)
    assert texts(lineup, photo) == {"base": expected["base"]}  # nothing of the bank without a name
    shared, before = lineup.shared("base"), lineup.variant("ships")
    assert (before.weight_bytes, before.available, shared.views) == (0, True, [])
    everyone = ("base", *TASKS)
    assert texts(lineup, photo, *everyone) == expected
    assert {batch.contenders for batch in shared.batches(everyone)} == {
        ("base", *BOTTLENECKS),
        ("trees",),
    }
    assert lineup.variant("ships").weight_bytes == lineup.variant("base").weight_bytes + size
    assert {name: texts(lineup, photo, name)[name] for name in everyone} == expected
    with pytest.raises(LineupError, match="asked for was boats"):
        texts(lineup, photo, "base", "boats")


def test_the_least_recently_used_makes_room(
    folder: Path, tiny_checkpoint: Path, photo: Image.Image, expected: dict[str, str], size: int
) -> None:
    lineup = made(tiny_checkpoint, folder, limit=2.5 * size)
    shared = lineup.shared("base")
    for name in ("fields", "roofs", "fields", "ships"):
        assert texts(lineup, photo, name) == {name: expected[name]}
    assert {name for view in shared.views for name in view.adapters} == {"fields", "ships"}
    assert sum(shared.adapter_bytes.values()) == 2 * size
    assert texts(lineup, photo, "roofs", "base") == {
        name: expected[name] for name in ("roofs", "base")
    }
    assert set(shared.adapter_bytes) == {"ships", "roofs"}
    # Three at once are more than may be there: one is told so, and the others answer.
    *_, last = stream(lineup, photo, BOTTLENECKS, DECODING)
    assert "QVLA_BANK_MB" in str(last["fields"].error)
    assert {name: last[name].text for name in ("roofs", "ships")} == {
        name: expected[name] for name in ("roofs", "ships")
    }


def test_an_adapter_in_use_is_not_dropped(
    folder: Path,
    tiny_checkpoint: Path,
    photo: Image.Image,
    expected: dict[str, str],
    size: int,
    tmp_path: Path,
) -> None:
    own = tmp_path / "bank"
    shutil.copytree(folder / "ships", own / "ships")
    shutil.copytree(folder / "roofs", own / "roofs")
    shutil.copytree(folder / "fields", own / "fields")
    (own / "bank.yaml").write_text("roofs: {precision: bf16}\n")  # on weights of its own
    lineup = made(tiny_checkpoint, own, limit=1.5 * size)
    assert texts(lineup, photo, "ships") == {"ships": expected["ships"]}
    with held(lineup, 3) as go_on:
        states = stream(lineup, photo, ["ships"], DECODING)
        assert next(state for state in states if state["ships"].tokens)
        with pytest.raises(CaptioningError, match="no room now"):
            caption(lineup, [photo], ["roofs"], DECODING)
        other = threading.Thread(target=caption, args=(lineup, [photo], ["fields"], DECODING))
        other.start()
        other.join(0.2)
        assert other.is_alive()  # it waits for the lock, and drops nothing meanwhile
        assert set(lineup.shared("ships").adapter_bytes) == {"ships"}
        go_on.set()
        *_, last = states
    other.join(PATIENCE)
    assert last["ships"].text == expected["ships"]
    assert set(lineup.shared("ships").adapter_bytes) == {"fields"}
    caption(lineup, [photo], ["roofs"], DECODING)
    assert lineup.shared("ships").adapter_bytes == {}


def test_a_task_that_cannot_be_loaded_says_so_and_the_others_go_on(
    folder: Path,
    tiny_checkpoint: Path,
    photo: Image.Image,
    expected: dict[str, str],
    tmp_path: Path,
) -> None:
    own = tmp_path / "bank"
    shutil.copytree(folder / "ships", own / "ships")
    shutil.copytree(folder / "roofs", own / "roofs")
    weights = own / "roofs" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    lineup = made(tiny_checkpoint, own)
    *_, last = stream(lineup, photo, ["base", "roofs", "ships"], DECODING)
    assert "damaged" in str(last["roofs"].error)
    assert [last[name].text for name in ("base", "ships")] == [expected["base"], expected["ships"]]
    # What is put into the folder answers at once, without a restart.
    shutil.copytree(folder / "fields", own / "roofs", dirs_exist_ok=True)
    shutil.copytree(folder / "trees", own / "trees")
    assert texts(lineup, photo, "roofs", "trees") == {
        "roofs": expected["fields"],
        "trees": expected["trees"],
    }
    shutil.copytree(folder / "roofs", own / "roofs", dirs_exist_ok=True)
    assert texts(lineup, photo, "roofs") == {"roofs": expected["roofs"]}


def test_contenders_come_and_go_while_the_line_up_answers(
    folder: Path,
    tiny_checkpoint: Path,
    photo: Image.Image,
    expected: dict[str, str],
    tmp_path: Path,
) -> None:
    lineup = made(tiny_checkpoint, folder)

    def one(name: str, title: str, adapter: Path) -> Contender:
        values = {"base": str(tiny_checkpoint), "precision": "fp32", "needs_adapter": True}
        return Contender(name=name, title=title, adapter=str(adapter), **values)

    lineup.add(one("new", "New one", folder / "trees"), shown="job 1")
    assert lineup.names() == ("base", "new")
    assert lineup.variant("new").adapter == "job 1"
    assert texts(lineup, photo) == {"base": expected["base"], "new": expected["trees"]}
    for name, title, words in (
        ("new", "Other", "the name"),
        ("ships", "Other", "a task"),
        ("other", "Base", "title"),
    ):
        with pytest.raises(LineupError, match=words):
            lineup.add(one(name, title, folder / "trees"))
    with pytest.raises(AdapterError):
        lineup.add(one("bad", "Bad", tmp_path))
    assert lineup.names() == ("base", "new")
    lineup.remove("new")
    assert texts(lineup, photo) == {"base": expected["base"]}
    assert lineup.shared("base").views == []
    with pytest.raises(LineupError, match="no variant 'new'"):
        lineup.variant("new")
    with pytest.raises(LineupError, match="last one"):
        lineup.remove("base")
