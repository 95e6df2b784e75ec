"""The app from outside: what its pure parts write, and what a served app answers to a client."""

from __future__ import annotations

import csv
import json
import threading
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from qvla.captioning.contenders import default_contenders
from qvla.captioning.loader import LineupLoader, NotReadyError, Phase
from qvla.data.imagery import ImageError, open_image
from qvla.errors import QvlaError
from qvla.settings import Settings
from qvla.ui.app import build
from qvla.ui.compare import history
from qvla.ui.compare.comparison import compare, score
from qvla.ui.panes import Pane, PaneState, announcement, idle_panes, render_panes
from qvla.ui.photo_folder import PAGE_SIZE, PhotoFolder
from qvla.ui.tables import write_csv
from tests.support.held import held
from tests.support.made_images import geotiff
from tests.support.serving import add_adapters, write_photo, write_risc_folder
from tests.support.tiny import build_tiny
from tests.support.waiting import PATIENCE

VARIANTS = ["base", "adapter", "qvla"]
REFERENCES = ["many planes are parked next to a river", "a river is next to some green trees"]
HOSTILE = '<img src=x onerror="alert(1)">'

DONE = Pane(
    "adapter",
    PaneState.DONE,
    model="mini",
    adapter="adapter",
    precision="fp32",
    weight_bytes=36_200_000,
    text="some planes",
    tokens=3,
    seconds_to_first_token=0.25,
    seconds=1.5,
    cider_d=1.25,
    rouge_l=0.5,
    words=(("some", False), (" ", False), ("planes", True)),
)


class Outline(HTMLParser):
    """The elements of a page in order, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


# ---- panes ---------------------------------------------------------------------------------------


def test_a_pane_shows_who_answered_and_its_figures() -> None:
    page = render_panes([DONE])
    text = " ".join(Outline(page).words)
    for shown in ("Adapter", "mini", "FP32", "250 ms", "1.50 s", "2.0", "36.2 MB", "1.25", "0.50"):
        assert shown in text
    assert "<mark>planes</mark>" in page
    assert "<mark>some</mark>" not in page


def test_nothing_that_a_model_or_visitor_wrote_becomes_markup() -> None:
    hostile = replace(
        DONE,
        text=HOSTILE,
        model=HOSTILE,
        adapter=HOSTILE,
        message=HOSTILE,
        words=((HOSTILE, True),),
    )
    assert "img" not in Outline(render_panes([hostile, replace(hostile, words=())])).tags
    assert "img" not in Outline(render_panes([replace(hostile, text="")])).tags
    entry = history.Comparison("2026-01-01T10:00:00+00:00", HOSTILE, "data:,", {}, (), (hostile,))
    assert Outline(history.render_history([entry])).tags.count("img") == 1  # the thumbnail


def test_a_pane_keeps_its_elements_from_start_to_end() -> None:
    """The browser side compares nodes by position; layout shifts where elements come and go."""

    def skeleton(pane: Pane) -> list[str]:
        page = render_panes([pane])
        start, end = page.index('<p class="caption"'), page.index('<p class="note"')
        return Outline(page[:start] + page[end:]).tags

    idle = skeleton(idle_panes(default_contenders("model"))[1])
    for state in PaneState:
        assert skeleton(replace(DONE, state=state)) == idle
        assert skeleton(Pane("adapter", state, "a message")) == idle


def test_screen_readers_hear_the_start_and_the_end_only() -> None:
    waiting = replace(DONE, state=PaneState.WAITING, text="")
    streaming = replace(DONE, state=PaneState.STREAMING, text="some")
    assert announcement([waiting]) == announcement([streaming])
    assert announcement([DONE]) == "Adapter: Some planes."


def test_references_without_a_word_cost_the_scores_but_not_the_captions() -> None:
    (pane,) = score([DONE], ["..."])
    assert (pane.state, pane.text) == (PaneState.DONE, "some planes")
    assert pane.cider_d is None
    assert "references" in "".join(Outline(render_panes([pane])).words)
    (pane,) = score([pane], ["some planes"])
    assert pane.cider_d > 0 and pane.scoring_fault == ""


# ---- history -------------------------------------------------------------------------------------


def test_downloads_hold_what_was_shown(tmp_path: Path) -> None:
    awkward = 'a "quoted", caption\nof two lines: Zürich'
    panes = (replace(DONE, name="base", text=awkward, cider_d=None), DONE)
    decoding = {"max_new_tokens": 40, "num_beams": 1, "temperature": 0.0, "top_p": 1.0, "seed": 7}
    entry = history.Comparison(
        "2026-01-01T10:00:00+00:00", "river.tif", "data:,", decoding, ("one", "two"), panes
    )
    csv_file, json_file = history.write_downloads([entry, entry], tmp_path)
    rows = list(csv.DictReader(StringIO(Path(csv_file).read_text(encoding="utf-8"))))
    assert [row["variant"] for row in rows] == ["base", "adapter"] * 2
    assert rows[0]["caption"] == awkward
    assert rows[0]["cider_d"] == "" and float(rows[1]["cider_d"]) == 1.25
    assert float(rows[1]["tokens_per_second"]) == 3 / 1.5
    assert int(rows[1]["weight_bytes"]) == 36_200_000
    assert (rows[1]["seed"], rows[1]["references"]) == ("7", "one\ntwo")
    records = json.loads(Path(json_file).read_text(encoding="utf-8"))
    assert len(records) == 2
    assert records[0]["variants"]["base"]["caption"] == awkward
    assert records[0]["decoding"] == decoding
    assert records[0]["references"] == ["one", "two"]
    assert "data:," not in Path(csv_file).read_text() + Path(json_file).read_text()


def test_no_cell_of_a_download_is_a_formula(tmp_path: Path) -> None:
    """What a visitor names a photo, or a model says, must not be computed by a spreadsheet."""
    hostile = ['=HYPERLINK("http://x")', "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1"]
    entries = [
        history.Comparison("t", text, "data:,", {}, (text,), (replace(DONE, text=text),))
        for text in hostile
    ]
    csv_file, json_file = history.write_downloads(entries, tmp_path)
    with open(csv_file, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for column in ("photo", "caption", "references"):
        assert [row[column] for row in rows] == [f"'{text}" for text in hostile]
    assert [float(row["cider_d"]) for row in rows] == [1.25] * len(hostile)
    assert [entry["photo"] for entry in json.loads(Path(json_file).read_text())] == hostile
    path = write_csv("figures", ("=quantity", "value"), [("@a", -0.5)])
    assert Path(path).read_text(encoding="utf-8").split() == ["'=quantity,value", "'@a,-0.5"]


# ---- gallery -------------------------------------------------------------------------------------


def test_the_gallery_filters_and_pages(tmp_path: Path) -> None:
    rows = [
        ("RSICD" if n % 3 else "UCM", "val" if n % 2 else "test", f"{n:03}.png", ["a river"])
        for n in range(PAGE_SIZE * 2 + 5)
    ]
    folder = PhotoFolder(write_risc_folder(tmp_path / "risc", rows))
    assert folder.sources() == ["RSICD", "UCM"]
    assert folder.splits() == ["test", "val"]
    pages = [folder.page(number=number) for number in (1, 2, 3)]
    names = [example.name for page in pages for example in page.examples]
    assert names == [name for _, _, name, _ in rows]
    assert [page.pages for page in pages] == [3, 3, 3]
    assert folder.page(number=99).number == 3 and folder.page(number=-4).number == 1
    wanted = [name for source, split, name, _ in rows if (source, split) == ("UCM", "val")]
    assert [example.name for example in folder.page("UCM", "val").examples] == wanted
    assert folder.page("UCM", "nothing").matching == 0


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "", None, "resized/000.png"])
def test_the_gallery_gives_only_what_its_table_names(tmp_path: Path, name: str | None) -> None:
    folder = PhotoFolder(write_risc_folder(tmp_path / "risc", [("UCM", "val", "000.png", [])]))
    write_photo(tmp_path / "secret.png")
    assert folder.find("000.png").name == "000.png"
    with pytest.raises(QvlaError):
        folder.find(name)


# ---- loading -------------------------------------------------------------------------------------


def test_the_loader_reports_fails_in_a_sentence_and_can_try_again() -> None:
    told, gate, attempts = threading.Event(), threading.Event(), []

    def load(progress):
        attempts.append(1)
        progress("Fetching weights.")
        told.set()
        gate.wait(PATIENCE)
        if len(attempts) == 1:
            raise QvlaError("There is no such model.")
        if len(attempts) == 2:
            raise ZeroDivisionError("secret detail")
        return "the line-up"

    loader = LineupLoader(load).start()
    loader.start()  # while one attempt is under way there is no second
    assert told.wait(PATIENCE)
    assert loader.wait(timeout=0.05) is None
    state = loader.state()
    assert (state.phase, state.message) == (Phase.LOADING, "Fetching weights.")
    gate.set()
    with pytest.raises(NotReadyError, match=r"^There is no such model\.$"):
        loader.wait(PATIENCE)
    with pytest.raises(NotReadyError, match="unforeseen ZeroDivisionError") as caught:
        loader.start().wait(PATIENCE)
    assert "secret detail" not in str(caught.value)
    assert loader.start().wait(PATIENCE) == "the line-up"
    assert loader.start().lineup == "the line-up"
    assert len(attempts) == 3


def test_a_model_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    loader = LineupLoader.of(Settings(model=str(tmp_path / "nowhere"))).start()
    with pytest.raises(NotReadyError, match="nowhere") as caught:
        loader.wait(PATIENCE)
    assert "unforeseen" not in str(caught.value) and "\n" not in str(caught.value)


# ---- the served app ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("app")
    model = add_adapters(build_tiny(home / "model"))
    data = write_risc_folder(home / "risc", [("UCM", "val", "field.png", REFERENCES)])
    return Settings(model=str(model), data=data, max_upload_mb=1, device="cpu")


@pytest.fixture(scope="module")
def client(address: str) -> Client:
    return Client(address, verbose=False, ssl_verify=False)


def test_a_comparison_streams_and_can_be_stopped(loader: LineupLoader, tmp_path: Path) -> None:
    image = open_image(write_photo(tmp_path / "photo.png"))
    stopped = threading.Event()
    seen = []
    with held(loader.lineup, 10):
        for panes in compare(loader, image, {"max_new_tokens": 120}, REFERENCES, stopped):
            seen.append(panes)
            if all(pane.text for pane in panes):
                stopped.set()
    assert [pane.state for pane in seen[0]] == [PaneState.WAITING] * 3
    assert [pane.precision for pane in seen[0]] == ["fp32", "fp32", "nf4"]
    assert any(pane.state is PaneState.STREAMING and pane.text for pane in seen[-2])
    assert [pane.state for pane in seen[-1]] == [PaneState.STOPPED] * 3
    assert all(0 < pane.tokens < 120 for pane in seen[-1])
    assert "".join(piece for piece, _ in seen[-1][0].words) == seen[-1][0].text


def test_a_photo_alone_is_enough(client: Client, loader: LineupLoader, tmp_path: Path) -> None:
    from qvla.captioning.engine import caption

    photo = write_photo(tmp_path / "photo.jpg")
    result = client.predict(handle_file(photo), api_name="/compare")
    assert list(result) == VARIANTS
    expected = caption(loader.lineup, [open_image(photo)])[0]
    for name in VARIANTS:
        assert result[name]["caption"] == expected[name].text
        assert result[name]["tokens"] == expected[name].tokens
        assert result[name]["weight_bytes"] == loader.lineup.variant(name).weight_bytes
        assert 0 < result[name]["seconds_to_first_token"] <= result[name]["seconds"]
        assert result[name]["cider_d"] is None
    assert len({result[name]["caption"] for name in VARIANTS}) == 3


def test_references_are_scored_and_options_obeyed(client: Client, tmp_path: Path) -> None:
    from qvla.scoring import sentence_scores

    photo = write_photo(tmp_path / "photo.png", seed=3)
    result = client.predict(
        handle_file(photo),
        references="\n\n".join(REFERENCES) + "\n  ",
        max_new_tokens=5,
        api_name="/compare",
    )
    for name in VARIANTS:
        assert 1 <= result[name]["tokens"] <= 5
        expected = sentence_scores(result[name]["caption"], REFERENCES)
        assert result[name]["cider_d"] == pytest.approx(expected.cider_d)
        assert result[name]["rouge_l"] == pytest.approx(expected.rouge_l)


def test_a_seed_repeats_a_sample(client: Client, tmp_path: Path) -> None:
    photo = handle_file(write_photo(tmp_path / "photo.png", seed=4))
    options = {"temperature": 1.5, "max_new_tokens": 12, "api_name": "/compare"}
    first, again, other = (client.predict(photo, seed=seed, **options) for seed in (1, 1, 2))
    assert first["base"]["caption"] == again["base"]["caption"] != other["base"]["caption"]


def test_options_that_make_no_sense_are_one_sentence(client: Client, tmp_path: Path) -> None:
    photo = handle_file(write_photo(tmp_path / "photo.png"))
    with pytest.raises(AppError, match="Beam search does not sample") as caught:
        client.predict(photo, num_beams=3, temperature=1.0, api_name="/compare")
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"no picture", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\xff\xd8\xff\xe0cut"],
    ids=["empty", "text", "svg", "truncated"],
)
def test_a_bad_upload_is_the_sentence_of_imagery(
    client: Client, tmp_path: Path, content: bytes
) -> None:
    bad = tmp_path / "photo.jpg"
    bad.write_bytes(content)
    with pytest.raises(ImageError) as expected:
        open_image(bad)
    with pytest.raises(AppError) as caught:
        client.predict(handle_file(bad), api_name="/compare")
    assert str(caught.value) == str(expected.value)


def call(address: str, endpoint: str, data: list[object]) -> str:
    """One call without the client, which would upload local files by itself; the raw answer."""
    url = f"{address}gradio_api/call/{endpoint}"
    event = httpx.post(url, json={"data": data}, timeout=PATIENCE, verify=False).json()["event_id"]
    return httpx.get(f"{url}/{event}", timeout=PATIENCE, verify=False).text


def as_file(path: str) -> dict[str, object]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def test_files_of_the_server_and_addresses_are_refused(address: str, settings: Settings) -> None:
    own = settings.data / "resized" / "field.png"
    options = ["", 3, 1, 0, 1, "", ""]
    address_of_photo = "http://127.0.0.1:9/photo.png"
    refusals = [
        (as_file(str(own)), ""),  # Gradio's own refusal, whose words it does not pass on
        ({"path": str(own)}, "Choose a photo first."),
        (str(own), "Choose a photo first."),
        ("", "Choose a photo first."),
        (as_file(address_of_photo), "Send the file itself, not its address"),
    ]
    for photo, sentence in refusals:
        answer = call(address, "compare", [photo, *options])
        assert "event: error" in answer and sentence in answer and "caption" not in answer
    assert httpx.get(f"{address}gradio_api/file={own}").status_code == 403


def test_the_page_tells_what_a_raster_left_open(client: Client, tmp_path: Path) -> None:
    scene = tmp_path / "scene.tif"
    bands = np.random.default_rng(0).integers(0, 255, (3, 40, 48)).astype(np.uint8)
    scene.write_bytes(geotiff(bands, photometric="RGB", names=("<i>nir</i>", "red", "green")))
    shown, *_ = client.predict(handle_file(scene), "", api_name="/take_photo")
    assert "Bands 1 (i nir i), 2 (red) and 3 (green) are shown as red" in json.dumps(shown)
    plain = write_photo(tmp_path / "plain.png")
    shown, *_ = client.predict(handle_file(plain), "", api_name="/take_photo")
    assert "plain.png" in json.dumps(shown) and "Bands" not in json.dumps(shown)


def test_uploads_beyond_the_limit_are_refused(address: str, settings: Settings) -> None:
    too_much = {"files": ("photo.png", b"0" * (settings.max_upload_bytes + 1))}
    assert httpx.post(f"{address}gradio_api/upload", files=too_much).status_code == 413


def test_the_gallery_fills_in_photo_and_references(client: Client, tmp_path: Path) -> None:
    photo, references, *_ = client.predict("field.png", api_name="/take_gallery")
    assert references == "\n".join(REFERENCES)
    assert "field.png" in json.dumps(photo)
    refused, references, *_ = client.predict("../field.png", api_name="/take_gallery")
    assert "There is no photo" in json.dumps(refused)


def test_every_event_has_a_name_of_its_own(settings: Settings) -> None:
    app = build(settings, LineupLoader(lambda progress: None))
    names = [event.api_name for event in app.fns.values() if event.fn is not None]
    assert len(names) == len(set(names)) and all(isinstance(name, str) for name in names)
    assert "compare" in names


def test_the_api_page_documents_what_programs_are_meant_to_call(settings: Settings) -> None:
    app = build(settings, LineupLoader(lambda progress: None))
    documented = app.get_api_info()["named_endpoints"]
    assert set(documented) == {"/ask", "/compare", "/plan", "/score_predictions"}
    parameters = [one["parameter_name"] for one in documented["/ask"]["parameters"]]
    assert parameters[:3] == ["photo", "question", "right"]
    parameters = [one["parameter_name"] for one in documented["/compare"]["parameters"]]
    assert parameters[:2] == ["photo", "references"]
    assert parameters[-1] == "variants"  # what came later stands behind the rest


def test_the_page_asks_for_nothing_from_elsewhere(address: str) -> None:
    page = httpx.get(address).text
    assert "fonts.googleapis" not in page and "cdnjs" not in page


def test_openais_clients_are_not_answered_unless_that_is_asked_for(address: str) -> None:
    assert httpx.get(f"{address}v1/models").status_code == 404
    assert httpx.post(f"{address}v1/chat/completions", json={}).status_code in (404, 405)
