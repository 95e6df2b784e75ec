"""Panes of one's own choice: who is offered, what is believed of a choice, and tasks of a bank."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from qvla.captioning.contenders import Contender, LineupError
from qvla.captioning.engine import caption
from qvla.captioning.loader import LineupLoader
from qvla.data.imagery import open_image
from qvla.settings import Settings
from qvla.ui.compare import comparison
from qvla.ui.compare.offers import MOST, answering, checked, offers, panes_with, with_pane
from qvla.ui.panes import PaneState
from tests.support.adapted import adapted, load
from tests.support.serving import served, write_photo


@pytest.fixture(scope="module")
def settings(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A base without adapters of its own, and a bank."""
    home = tmp_path_factory.mktemp("choice")
    for seed, name in enumerate(("roofs", "ships"), start=1):
        adapted(load(tiny_checkpoint), seed=100 * seed).save_pretrained(home / "bank" / name)
    (home / "bank" / "notes").mkdir()
    return Settings(
        model=str(tiny_checkpoint), bank=home / "bank", jobs=home / "jobs", device="cpu"
    )


@pytest.fixture(scope="module")
def client(settings: Settings, loader: LineupLoader) -> Iterator[Client]:
    with served(settings, loader) as address:
        yield Client(address, verbose=False, ssl_verify=False)


@pytest.fixture
def added(settings: Settings, loader: LineupLoader) -> Iterator[str]:
    """A contender that joined while the app was open."""
    new = Contender(
        name="late",
        title="Late",
        base=settings.model,
        adapter=str(settings.bank / "ships"),
        needs_adapter=True,
    )
    loader.lineup.add(new)
    yield new.name
    if new.name in loader.lineup.names():
        loader.lineup.remove(new.name)


def test_who_is_offered_and_why_others_are_not(loader: LineupLoader) -> None:
    told = {one.title: one.reason for one in offers(loader)}
    assert list(told) == ["Base", "Adapter", "QVLA", "roofs", "ships", "notes"]
    assert [title for title, reason in told.items() if not reason] == ["Base", "roofs", "ships"]
    assert "no adapter" in told["QVLA"] and "adapter_config.json" in told["notes"]
    assert answering(loader, ()) == ("base", "adapter", "qvla")
    assert answering(loader, ("ships", "base")) == ("ships", "base")
    assert answering(loader, ("ships", "gone")) == ("base", "adapter", "qvla")


def test_the_choice_follows_the_line_up(loader: LineupLoader, added: str) -> None:
    assert [one.name for one in loader.contenders] == ["base", "adapter", "qvla", "late"]
    assert checked(["late", "base"], loader) == ("late", "base")
    assert answering(loader, ("late", "base")) == ("late", "base")
    loader.lineup.remove(added)
    assert answering(loader, ("late", "base")) == ("base", "adapter", "qvla")
    with pytest.raises(LineupError, match="asked for was late"):
        checked(["late", "base"], loader)


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["base"],
        ["base", "base"],
        ["base", "adapter"],
        ["base", "../ships"],
        ["base", "notes"],
        ["base", ""],
        ["base", 7],
        "base,ships",
        None,
        [f"name-{number}" for number in range(MOST + 1)],
    ],
)
def test_a_choice_that_cannot_be_is_refused(loader: LineupLoader, names: Any) -> None:
    with pytest.raises(LineupError):
        checked(names, loader)


def test_choosing_on_the_page(client: Client) -> None:
    note, panes = client.predict(["ships", "base"], api_name="/choose_panes")
    assert [panes.count(f'data-variant="{name}"') for name in ("base", "ships", "qvla")] == [
        1,
        1,
        0,
    ]
    assert panes.index('data-variant="ships"') < panes.index('data-variant="base"')  # as asked for
    assert "cannot be chosen" in note and "Choose" not in note
    note, _ = client.predict(["base"], api_name="/choose_panes")
    assert f"Choose 2 to {MOST} panes" in note
    with pytest.raises(AppError):
        client.predict(["base", "boats"], api_name="/choose_panes")


def test_a_pane_joins_those_that_are_shown(
    settings: Settings, loader: LineupLoader, client: Client
) -> None:
    assert with_pane(loader, (), "ships") == ("base", "ships")
    assert with_pane(loader, ("base", "roofs"), "ships") == ("base", "roofs", "ships")
    assert with_pane(loader, ("base", "roofs"), "roofs") == ("base", "roofs")
    with pytest.raises(LineupError, match="asked for was qvla"):
        with_pane(loader, (), "qvla")
    found = panes_with(loader, settings.model)
    assert {method: one.name for method, one in found.items()} == {"bottleneck": "roofs"}
    assert panes_with(loader, "google/paligemma-3b-pt-224") == {}
    *_, panes = client.predict("ships", api_name="/explore_open_row")
    assert [panes.count(f'data-variant="{name}"') for name in ("base", "ships", "adapter")] == [
        1,
        1,
        0,
    ]
    with pytest.raises(AppError, match="asked for was boats"):
        client.predict("boats", api_name="/explore_open_row")


def test_an_adapter_that_was_swapped_in_is_found(settings: Settings, loader: LineupLoader) -> None:
    lineup = loader.lineup
    assert lineup is not None
    lineup.swap_adapter("adapter", settings.bank / "ships", shown="job 1")
    try:
        found = panes_with(loader, settings.model)
        assert found["bottleneck"].name == "adapter"
    finally:
        lineup.drop_adapter("adapter")
    assert panes_with(loader, settings.model)["bottleneck"].name == "roofs"


def test_programs_may_name_who_answers(
    client: Client, loader: LineupLoader, tmp_path: Path
) -> None:
    photo = write_photo(tmp_path / "photo.png")
    result = client.predict(handle_file(photo), variants="ships, base", api_name="/compare")
    [due] = caption(loader.lineup, [open_image(photo)], ["ships", "base"])
    assert {name: one["caption"] for name, one in result.items()} == {
        name: answer.text for name, answer in due.items()
    }
    assert result["ships"]["weight_bytes"] > result["base"]["weight_bytes"]
    with pytest.raises(AppError, match="asked for was boats"):
        client.predict(handle_file(photo), variants="base,boats", api_name="/compare")


def test_a_pane_says_that_its_adapter_is_loading(loader: LineupLoader, tmp_path: Path) -> None:
    image = open_image(write_photo(tmp_path / "photo.png"))
    states = comparison.compare(loader, image, {}, (), threading.Event(), ("base", "roofs"))
    first, *_, last = states
    assert [pane.message for pane in first] == [comparison.LOOKING, comparison.LOADING]
    assert [pane.state for pane in last] == [PaneState.DONE] * 2
    assert last[1].weight_bytes > last[0].weight_bytes
    [again, *_] = comparison.compare(loader, image, {}, (), threading.Event(), ("base", "roofs"))
    assert [pane.message for pane in again] == [comparison.LOOKING] * 2
