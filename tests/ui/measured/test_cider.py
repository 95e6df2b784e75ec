"""The CIDEr tab without a browser: what it makes of records, and what its handlers refuse."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from html import unescape
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from qvla import scoring
from qvla.captioning.loader import LineupLoader
from qvla.data.examples import read_examples
from qvla.data.risc import Example
from qvla.records import store as records
from qvla.records.reported import reported
from qvla.settings import EMBEDDED_MODEL, Settings
from qvla.ui import background, measuring, origins
from qvla.ui.measured import cider_figures
from qvla.ui.measured.cider import CiderTab
from qvla.ui.measured.evaluations import Evaluation, find_evaluations
from qvla.ui.measured.scored_photos import (
    PAGE_SIZE,
    Order,
    PhotoShelf,
    PhotosMissingError,
    render_photo,
    render_photos,
)
from qvla.ui.origins import job_records, visit_records
from qvla.ui.photo_folder import PhotoFolder
from tests.support.evaluations import PROTOCOLS, VARIANTS, write_evaluation
from tests.support.serving import served, write_risc_folder
from tests.support.waiting import PATIENCE

WORDS = "river green trees road white houses planes sea field bridge".split()
TITLES = {"base": "Base", "adapter": "Adapter", "qvla": "QVLA"}


def sentence(start: int, length: int) -> str:
    return " ".join(["a", *(WORDS[(start * step) % len(WORDS)] for step in range(1, length))])


def references(number: int) -> list[str]:
    return [sentence(number + extra, 5 + extra) for extra in range(3)]


ROWS = [
    ("UCM" if number % 3 else "RSICD", "val", f"photo{number:02}.png", references(number))
    for number in range(30)
]


def captions(examples: list[Example]) -> dict[str, dict[str, str]]:
    """Base is about the next photo; the adapter is right on even photos, QVLA on all but some."""
    said: dict[str, dict[str, str]] = {name: {} for name in VARIANTS}
    for number, example in enumerate(examples):
        other = examples[(number + 1) % len(examples)].references[0]
        said["base"][example.name] = other
        said["adapter"][example.name] = other if number % 2 else example.references[1]
        said["qvla"][example.name] = other if number % 5 == 0 else example.references[0]
    return said


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_risc_folder(tmp_path_factory.mktemp("data") / "risc", ROWS)


@pytest.fixture(scope="module")
def examples(data: Path) -> list[Example]:
    return read_examples(data)


@pytest.fixture
def evaluation(tmp_path: Path, examples: list[Example]) -> Evaluation:
    write_evaluation(tmp_path, examples, captions(examples))
    return only(tmp_path)


def only(folder: Path) -> Evaluation:
    [found] = find_evaluations(Settings(records=folder / "records"), pytest.fail)
    return found


def rows_of(table: str) -> list[list[str]]:
    """The cells of a table's rows as text, parts of a cell on lines of their own."""
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    cells = (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows)
    return [[unescape(re.sub(r"(<[^>]+>)+", "\n", cell)).strip() for cell in row] for row in cells]


def cell(record: Evaluation, key: str) -> str:
    numbers = record.record.numbers
    value, low, high = (numbers[name] for name in (key, f"{key}/low", f"{key}/high"))
    return f"{value:.3f}\n{low:.3f} to {high:.3f}\nmeasured"


# ---- figures of a record -------------------------------------------------------------------------


def test_cider_by_protocol_is_the_record_s(evaluation: Evaluation) -> None:
    shown = cider_figures.by_protocol(evaluation)
    head, *rows = rows_of(shown.table)
    assert head == ["Protocol", *TITLES.values()]
    for protocol, row in zip(PROTOCOLS, rows, strict=True):
        assert protocol in row[0].lower()
        assert row[1:] == [cell(evaluation, f"{protocol}/{name}/all/CIDEr") for name in VARIANTS]
    assert shown.table.count(f'href="#record-{evaluation.stem}"') == 6
    with open(shown.csv, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    values = {(row["kind"], row["quantity"], row["variant"]): float(row["value"]) for row in rows}
    assert {kind for kind, _, _ in values} == {"measured"}
    numbers = evaluation.record.numbers
    for name in VARIANTS:
        key = f"standard/{name}/all/CIDEr"
        assert values["measured", "Standard protocol", name] == numbers[key]
    drawn = {
        (bar.name, place): y
        for bar in shown.figure.data
        for place, y in zip(bar.x, bar.y, strict=True)
    }
    assert drawn["QVLA, measured", "Standard protocol"] == numbers["standard/qvla/all/CIDEr"]


def test_the_report_stands_beside_what_was_measured_by_its_protocol(
    evaluation: Evaluation,
) -> None:
    shown = cider_figures.against(evaluation)
    assert shown.figure is None  # another model's bars would be on one axis with the report's
    head, *rows = rows_of(shown.table)
    assert head == ["Figure", "Reported", "Measured"]
    told = reported()["table_3_cider"]
    assert rows == [
        [
            f"CIDEr, {TITLES[name]}",
            f"{told[name]:g}\nreported",
            cell(evaluation, f"reported/{name}/all/CIDEr"),
        ]
        for name in VARIANTS
    ]
    assert "0.0006 is likely an artefact" in shown.table
    assert "made-up is another model" in unescape(shown.table)
    alone = rows_of(cider_figures.against(None).table)[1:]
    assert [row[1:] for row in alone] == [[f"{told[name]:g}\nreported", "–"] for name in VARIANTS]


def test_sources_and_metrics_are_the_record_s(evaluation: Evaluation) -> None:
    rows = {
        row[0]: row[1:] for row in rows_of(cider_figures.by_source(evaluation, "standard").table)
    }
    names = {"all": "All photos (30)", "RSICD": "RSICD (10)", "UCM": "UCM (20)"}
    for group, name in names.items():
        for protocol in PROTOCOLS:
            assert rows[f"{name}, {protocol}"] == [
                cell(evaluation, f"{protocol}/{variant}/{group}/CIDEr") for variant in VARIANTS
            ]
    for protocol in PROTOCOLS:
        shown = cider_figures.other_metrics(evaluation, protocol)
        rows = {row[0]: row[1:] for row in rows_of(shown.table)}
        for metric in ("BLEU-1", "BLEU-4", "ROUGE-L"):
            assert rows[metric] == [
                cell(evaluation, f"{protocol}/{variant}/all/{metric}") for variant in VARIANTS
            ]
        assert "METEOR" not in rows and "METEOR is not in this record" in shown.table


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [(-0.02, 0.05, "Not that these photos show."), (0.004, 0.05, "Yes."), (-0.05, -0.01, "Yes.")],
)
def test_a_difference_is_answered_in_words(
    tmp_path: Path, examples: list[Example], low: float, high: float, answer: str
) -> None:
    key = "standard/qvla-minus-adapter/all/CIDEr"
    value = (low + high) / 2
    changes = {key: value, f"{key}/low": low, f"{key}/high": high, f"{key}/p_value": 0.0421}
    write_evaluation(tmp_path, examples, {}, changes=changes)
    shown = cider_figures.differences(only(tmp_path), "standard")
    words = unescape(re.sub(r"<[^>]+>", "", shown.table.partition("</p>")[0]))
    assert words.startswith(answer)
    assert f"QVLA scores {abs(value):.3f} {'more' if value > 0 else 'less'} than Adapter" in words
    assert cider_figures.signed(low) in words and cider_figures.signed(high) in words
    assert "p = 0.042" in words and ("cannot be told apart" in words) == (answer != "Yes.")
    rows = {row[0]: row[1] for row in rows_of(shown.table)}
    assert rows["QVLA minus Adapter"].split("\n")[0] == cider_figures.signed(value)
    other = only(tmp_path).record.numbers["standard/adapter-minus-base/all/CIDEr"]
    assert rows["Adapter minus Base"].split("\n")[0] == cider_figures.signed(other)


def test_what_a_record_lacks_is_left_out(tmp_path: Path, examples: list[Example]) -> None:
    """One protocol, one source, no pair: as `evaluate --protocol standard --variant qvla`."""
    changes = {
        f"{protocol}/{variant}/{group}/CIDEr": None
        for protocol in PROTOCOLS
        for variant in VARIANTS
        for group in ("all", "RSICD", "UCM")
        if (protocol, variant) != ("standard", "qvla")
    }
    pairs = ("adapter-minus-base", "qvla-minus-base", "qvla-minus-adapter")
    changes |= {
        f"standard/{pair}/{g}/CIDEr": None for pair in pairs for g in ("all", "RSICD", "UCM")
    }
    write_evaluation(tmp_path, examples, {}, changes=changes)
    made = only(tmp_path)
    [_, last] = rows_of(cider_figures.by_protocol(made).table)
    assert last[1:] == ["–", "–", cell(made, "standard/qvla/all/CIDEr")]
    assert "compares no two variants" in cider_figures.differences(made, "standard").table


def test_what_runs_here_comes_first_then_what_ships_then_the_newest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, examples: list[Example]
) -> None:
    for folder, sizes in (("shipped", (12, 30, 5)), ("own", (7, 3))):
        for number, size in enumerate(sizes):
            path = write_evaluation(tmp_path / folder, examples[:size], {}, model=f"{folder}{size}")
            content = json.loads(path.read_text())
            content["date"] = f"2026-01-0{number + 1}T00:00:00Z"
            path.write_text(json.dumps(content))
    problems: list[str] = []
    (tmp_path / "own" / "records" / "broken.json").write_text("{")
    folders = tuple(tmp_path / name / "records" for name in ("shipped", "own"))
    monkeypatch.setattr(records, "SHIPPED", folders[0])
    monkeypatch.setattr(origins, "record_folders", lambda settings: folders)
    settings = Settings(records=folders[1], jobs=tmp_path / "jobs")

    def found(model: str) -> list[str]:
        settings.model = model
        return [one.record.model for one in find_evaluations(settings, problems.append)]

    assert found("elsewhere") == ["shipped30", "shipped12", "shipped5", "own3", "own7"]
    assert len(problems) == 1 and "broken.json" in problems[0]
    assert found("own7")[:2] == ["own7", "shipped30"]  # what runs here comes first
    assert found("shipped5")[:2] == ["shipped5", "shipped30"]


def test_what_others_measured_carries_its_name_and_is_not_imposed(
    tmp_path: Path, examples: list[Example]
) -> None:
    """However new it is and whatever model it is of; a job's goes with the job."""
    settings = Settings(records=tmp_path / "records", jobs=tmp_path / "jobs", model="mine")
    job = settings.jobs / "20261125-205412-0a1b2c3d"
    write_evaluation(tmp_path, examples, {}, model="other")
    write_evaluation(visit_records(settings).parent, examples[:3], {}, model="mine")
    write_evaluation(job, examples[:2], captions(examples[:2]), model="mine")
    first, *rest = find_evaluations(settings, pytest.fail)
    assert (first.record.model, first.whose, first.photos) == ("other", "", 30)
    titles = {one.photos: one.title for one in rest}
    assert titles[3].startswith("Measured from this page: mine on fields, 3 photos")
    assert titles[2].startswith("Job 0a1b2c3d: mine on fields, 2 photos")
    assert job_records(settings, job.name) == job / "records"
    assert all(one.predictions("qvla") for one in rest if one.photos == 2)
    shutil.rmtree(job)
    assert [one.photos for one in find_evaluations(settings, pytest.fail)] == [30, 3]


def test_any_contender_stands_beside_the_three(tmp_path: Path, examples: list[Example]) -> None:
    """With the record's own titles, every pair that it holds, and a colour of its own."""
    titles = {"base": "Base", "lora-16": "LoRA, rank 16", "qlora": "The same in <NF4>"}
    path = write_evaluation(
        tmp_path, examples, {name: captions(examples)["qvla"] for name in titles}, variants=titles
    )
    content = json.loads(path.read_text())
    content["protocol"]["contenders"] = {name: {"title": text} for name, text in titles.items()}
    del content["protocol"]["contenders"]["qlora"]  # as in records from before there were titles
    path.write_text(json.dumps(content))
    made = only(tmp_path)
    columns = [*TITLES.values(), "LoRA, rank 16", "qlora"]
    for shown in (
        cider_figures.by_protocol(made),
        cider_figures.by_source(made, "standard"),
        cider_figures.other_metrics(made, "standard"),
    ):
        head, *rows = rows_of(shown.table)
        assert head[1:] == columns
    assert rows[0][-2:] == [cell(made, f"standard/{name}/all/BLEU-1") for name in made.variants[1:]]
    shown = cider_figures.differences(made, "standard")
    assert [row[0] for row in rows_of(shown.table)[1:]] == [
        "LoRA, rank 16 minus Base",
        "qlora minus Base",
        "qlora minus LoRA, rank 16",
    ]
    assert "qlora scores" in shown.table  # the verdict is about the last pair
    drawn = cider_figures.by_source(made, "standard").figure.data
    filled = {bar.name: bar.marker.color for bar in drawn if bar.name.endswith(", measured")}
    assert list(filled) == [f"{title}, measured" for title in ("Base", *columns[-2:])]
    assert len(set(filled.values())) == 3


# ---- its photos ----------------------------------------------------------------------------------


def test_photos_are_sorted_by_their_share_in_cider(
    evaluation: Evaluation, data: Path, examples: list[Example]
) -> None:
    photos = PhotoShelf([PhotoFolder(data)]).of(evaluation)
    truth = {example.name: example.references for example in examples}
    shares = {}
    for variant, said in captions(examples).items():
        scored = scoring.score(truth, said, "standard", metrics=["CIDEr"], resamples=1)
        shares[variant] = scored.per_image["CIDEr"]
        mean = sum(photos.scores[variant].values()) / len(examples)
        assert mean == pytest.approx(scored.metrics["CIDEr"].value, abs=1e-9)
    assert photos.same_data and photos.absent == 0

    def values(order: Order, page) -> list[float]:
        first, second = shares[order.first], shares.get(order.second, {})
        return [first[one.name] - second.get(one.name, 0.0) for one in page.photos]

    for order in photos.orders:
        up = values(order, photos.page(order))
        down = values(order, photos.page(order, highest_first=True))
        assert up == sorted(up) and down == sorted(down, reverse=True)
        assert len(up) == PAGE_SIZE and max(up) <= max(down) and min(up) <= min(down)
    keys = [order.key for order in photos.orders]
    assert keys[:3] == list(VARIANTS) and "qvla-minus-adapter" in keys

    order = photos.order("qvla-minus-adapter")
    pages = [photos.page(order, number=number) for number in (1, 2, 99)]
    assert [(page.number, page.pages, page.matching) for page in pages] == [
        (1, 2, 30), (2, 2, 30), (2, 2, 30)
    ]  # fmt: skip
    assert {one.name for page in pages for one in page.photos} == set(truth)
    some = photos.page(order, source="RSICD")
    assert some.matching == 10 and {one.source for one in some.photos} == {"RSICD"}
    html = unescape(render_photos(photos, some, order))
    shown = re.findall(r'data-key="([^"]+)".*?</button><span>([^<]+)</span>', html)
    assert shown == [
        (one.name, cider_figures.signed(value))
        for one, value in zip(some.photos, values(order, some), strict=True)
    ]


def as_read(text: str) -> str:
    return (text[0].upper() + text[1:]).replace(" .", ".")


def test_an_opened_photo_shows_references_and_captions(
    evaluation: Evaluation, data: Path, examples: list[Example]
) -> None:
    photos = PhotoShelf([PhotoFolder(data)]).of(evaluation)
    example = examples[1]
    html = unescape(render_photo(photos, example.name))
    for reference in example.references:
        assert f"<li>{as_read(reference)}</li>" in html
    for variant, said in captions(examples).items():
        part = re.search(rf'data-variant="{variant}">(.*?)</div>', html).group(1)
        title, caption, score, own = re.findall(r"<d[dt][^>]*>(.*?)</d[dt]>", part)
        assert title == TITLES[variant]
        assert re.sub(r"<[^>]+>", "", caption) == as_read(said[example.name])
        assert f"<b>{photos.scores[variant][example.name]:.3f}</b>" in score
        alone = scoring.sentence_scores(said[example.name], example.references)
        assert "CIDEr-D" in own and f"{alone.cider_d:.2f}" in own  # as the Compare tab has it
        marked = re.findall(r"<mark>(.*?)</mark>", caption)
        pieces = scoring.shared_words(said[example.name], example.references)
        assert [one.lower() for one in marked] == [word for word, shared in pieces if shared]


def test_captions_and_photos_that_are_not_here_are_a_sentence(
    tmp_path: Path, data: Path, examples: list[Example]
) -> None:
    write_evaluation(tmp_path / "bare", examples, {})
    with pytest.raises(PhotosMissingError, match="captions of this evaluation are not on this"):
        PhotoShelf([PhotoFolder(data)]).of(only(tmp_path / "bare"))
    write_evaluation(tmp_path / "whole", examples, captions(examples))
    whole = only(tmp_path / "whole")
    for folders in ([], [PhotoFolder(tmp_path / "nowhere")]):
        with pytest.raises(PhotosMissingError, match=r"photos .*\(fields\) are not on"):
            PhotoShelf(folders).of(whole)
    part = write_risc_folder(tmp_path / "part", ROWS[:4])
    some = PhotoShelf([PhotoFolder(part)]).of(whole)
    assert len(some.examples) == 4 and some.absent == 26
    other = [(*row[:3], ["another caption ."]) for row in ROWS]
    changed = PhotoShelf([PhotoFolder(write_risc_folder(tmp_path / "other", other))]).of(whole)
    assert changed.absent == 0 and not changed.same_data


def test_a_record_cannot_name_files_outside_its_folder(
    tmp_path: Path, data: Path, examples: list[Example]
) -> None:
    path = write_evaluation(tmp_path / "runs", examples, captions(examples))
    secret = tmp_path / "secret.jsonl"
    secret.write_text((tmp_path / "runs/evaluations/made-up/base.jsonl").read_text())
    content = json.loads(path.read_text())
    content["files"] = {"predictions/base": "../secret.jsonl", "predictions/qvla": str(secret)}
    path.write_text(json.dumps(content))
    with pytest.raises(PhotosMissingError, match="captions of this evaluation are not"):
        PhotoShelf([PhotoFolder(data)]).of(only(tmp_path / "runs"))


# ---- the served app ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Settings:
    home = tmp_path_factory.mktemp("app")
    return Settings(model=str(home / "no-model"), data=data, max_upload_mb=1, device="cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]) -> Path:
    home = tmp_path_factory.mktemp("runs")
    write_evaluation(home, examples[:9], {}, model="bare")
    write_evaluation(home, examples, captions(examples), model="whole")
    return home


@pytest.fixture(scope="module")
def address(settings: Settings, home: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SPACE_ID", raising=False)
        own = settings.model_copy(update={"records": home / "records"})
        with served(own, LineupLoader(lambda progress: None)) as address:
            yield address


@pytest.fixture(scope="module")
def client(address: str) -> Client:
    return Client(address, verbose=False, ssl_verify=False)


def write_predictions(folder: Path, rows: dict[str, str]) -> Path:
    path = folder / "mine.jsonl"
    lines = (json.dumps({"image": image, "caption": text}) + "\n" for image, text in rows.items())
    path.write_text("".join(lines))
    return path


def test_own_captions_are_scored_as_the_core_scores_them(
    client: Client, home: Path, examples: list[Example], tmp_path: Path
) -> None:
    shared = examples[2:]
    own = {example.name: example.references[2] for example in shared} | {"moon.png": "a moon ."}
    result = client.predict(
        handle_file(write_predictions(tmp_path, own)), api_name="/score_predictions"
    )
    assert result["images"] == 28
    assert result["missing"] == {"count": 2, "first": ["photo00.png", "photo01.png"]}
    assert result["unknown"] == {"count": 1, "first": ["moon.png"]}
    assert "evaluation" in result["evaluation"]
    truth = {example.name: example.references for example in shared}
    for protocol in PROTOCOLS:
        systems = {"yours": own, **captions(examples)}
        assert list(result["protocols"][protocol]) == list(systems)
        scored = {
            name: scoring.score(
                truth, {image: said[image] for image in truth}, protocol, metrics=scoring.METRICS
            )
            for name, said in systems.items()
        }
        for name, one in scored.items():
            answer = result["protocols"][protocol][name]
            assert answer["tokenizer"] == one.tokenizer
            for metric, interval in one.metrics.items():
                assert answer["metrics"][metric] == pytest.approx(asdict(interval), abs=1e-9)
        expected = scoring.compare(scored["qvla"], scored["yours"])["CIDEr"]
        found = result["differences"][protocol]["yours-minus-qvla"]
        assert found == pytest.approx(asdict(expected), abs=1e-9)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "no captions"),
        ("no json\n", "line 1"),
        ('{"image": "photo00.png", "caption": "a"}\n' * 2, "line 2"),
        ('{"image": "photo00.png"}\n', "caption"),
        ('{"image": "moon.png", "caption": "a moon ."}\n', "None of the 1 images"),
        ('["photo00.png", "a"]\n', "entry 1"),
    ],
)
def test_a_bad_predictions_file_is_one_sentence(
    client: Client, tmp_path: Path, content: str, word: str
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(content)
    with pytest.raises(AppError) as caught:
        client.predict(handle_file(path), api_name="/score_predictions")
    said = str(caught.value)
    assert word in said and said.endswith(".") and "Traceback" not in said and "\n" not in said
    shown = client.predict(handle_file(path), api_name="/show_predictions")
    assert said in unescape(shown) and 'role="alert"' in shown


def test_an_unknown_evaluation_is_one_sentence(client: Client, tmp_path: Path) -> None:
    path = write_predictions(tmp_path, {"photo00.png": "a river ."})
    with pytest.raises(AppError, match=r"There is no evaluation '\.\./\.\./etc"):
        client.predict(handle_file(path), "../../etc/passwd", api_name="/score_predictions")


def call(address: str, endpoint: str, data: list[object], session: str | None = "anybody") -> str:
    url = f"{address}gradio_api/call/{endpoint}"
    body = {"data": data} | ({"session_hash": session} if session else {})
    event = httpx.post(url, json=body, timeout=PATIENCE, verify=False).json()["event_id"]
    return httpx.get(f"{url}/{event}", timeout=PATIENCE, verify=False).text


def upload(address: str, path: Path) -> str:
    with path.open("rb") as file:
        return httpx.post(f"{address}gradio_api/upload", files={"files": file}).json()[0]


def as_file(path: str) -> dict[str, object]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def test_no_visitors_file_is_touched_and_none_but_uploads_are_read(
    address: str, home: Path, tmp_path: Path
) -> None:
    path = write_predictions(tmp_path, {"photo00.png": "a river ."})
    sent = upload(address, path)
    assert Path(sent).is_file()
    assert upload(address, path) == sent  # equal files of several visitors are one file there
    for _ in range(3):
        assert '"images": 1' in call(address, "score_predictions", [as_file(sent), ""])
    assert Path(sent).is_file()

    own = home / "evaluations" / "whole" / "base.jsonl"
    for payload in (as_file(str(own)), {"path": str(own)}, str(own), None):
        answer = call(address, "score_predictions", [payload, ""])
        assert "event: error" in answer and "images" not in answer
    picture = tmp_path / "river.png"
    picture.write_bytes(path.read_bytes())
    sent = upload(address, picture)
    assert "is no predictions file" in call(address, "score_predictions", [as_file(sent), ""])
    assert Path(sent).exists() and own.exists()


def test_only_photos_of_the_shown_evaluation_can_be_opened(address: str) -> None:
    visit = Client(address, verbose=False, ssl_verify=False)
    with pytest.raises(AppError, match="Choose an evaluation first"):
        visit.predict("photo03.png", api_name="/cider_open_photo")
    visit.predict(None, "standard", api_name="/cider_open")
    filled = visit.predict(None, api_name="/cider_photos_on_open")
    assert "photo29.png" in json.dumps(filled)
    assert "photo03.png" in visit.predict("photo03.png", api_name="/cider_open_photo")
    for name in ("../captions.csv", "captions.csv", None, "moon.png"):
        with pytest.raises(AppError, match="There is no photo"):
            visit.predict(name, api_name="/cider_open_photo")


# ---- measuring -----------------------------------------------------------------------------------


@pytest.mark.parametrize("switched_off", [True, False], ids=["by the setting", "on a Space"])
def test_where_measuring_is_off_it_is_refused_whoever_asks(
    settings: Settings, home: Path, monkeypatch: pytest.MonkeyPatch, switched_off: bool
) -> None:
    before = background.TASKS.last
    if switched_off:
        settings = settings.model_copy(update={"measure": "off"})
    else:
        monkeypatch.setenv("SPACE_ID", "somebody/qvla")
    with served(settings, LineupLoader(lambda progress: None)) as address:
        assert "switched off" in call(address, "cider_measure", [], "a-visit")
    assert background.TASKS.last is before


def test_only_the_visit_that_started_it_can_cancel(
    address: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model of this app does not exist, so the command itself would soon fail by itself."""
    monkeypatch.setattr(CiderTab, "command", lambda self: _endless(tmp_path, settings))
    with served(settings, LineupLoader(lambda progress: None)) as own:
        try:
            assert "running" in call(own, "cider_measure", [], "mine")
            task = background.TASKS.last
            for session in ("theirs", None):
                answer = call(own, "cider_cancel", [], session)
                assert measuring.NOT_YOURS in answer and not task.status.over
            # the same for everybody, also on another app of this process
            assert "is being measured right now" in call(address, "cider_measure", [], "theirs")
            assert "running" in call(address, "cider_measuring_on_open", [], "theirs")
            call(own, "cider_cancel", [], "mine")
            assert task.wait(PATIENCE).state is background.State.CANCELLED
            assert "cancelled" in call(own, "cider_measuring_on_open", [], "mine")
        finally:
            background.TASKS.close()


def _endless(folder: Path, settings: Settings) -> list[str]:
    import os

    os.mkfifo(folder / "predictions.jsonl")
    given = ("--predictions", str(folder / "predictions.jsonl"))
    return ["score", *given, "--references", str(settings.data / "captions.csv")]


@pytest.mark.slow
def test_a_failed_measurement_says_why(address: str, settings: Settings) -> None:
    assert "running" in call(address, "cider_measure", [], "a-visit")
    status = background.TASKS.last.wait(PATIENCE)
    assert status.state is background.State.FAILED and "no-model" in status.message
    assert status.message in unescape(
        json.loads(call(address, "cider_measuring_on_open", []).split("data: ", 1)[1])[2]
    )


# ---- what ships ----------------------------------------------------------------------------------


def test_captions_of_every_shipped_evaluation_of_the_embedded_model_ship_with_it() -> None:
    """So that its photos can be browsed by who has them. They give the record's scores again where
    the photos ship too.
    """
    found = [one for one in find_evaluations(Settings()) if one.shipped]
    first = found[0]
    assert first.photos == 1303 and first.record.model == EMBEDDED_MODEL.name
    for variant in first.variants:
        said = scoring.read_predictions(first.predictions(variant))
        assert len(said) == first.photos and all(name.endswith((".jpg", ".tif")) for name in said)
    here = next(one for one in found if one.record.data.name == "examples")
    photos = PhotoShelf([PhotoFolder(Settings().examples)]).of(here)
    assert photos.same_data
    for variant in here.variants:
        mean = sum(photos.scores[variant].values()) / here.photos
        assert mean == pytest.approx(here.score("standard", variant, "CIDEr").value, abs=1e-6)
