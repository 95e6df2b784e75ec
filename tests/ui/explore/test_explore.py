"""What the Explore tab draws and says, against what was counted."""

from __future__ import annotations

import csv
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import gradio as gr
import pytest

from qvla.errors import QvlaError
from qvla.methods.registry import METHODS
from qvla.planning.claims import Claim, claims, lora_by_names
from qvla.planning.comparison import COLUMNS, compare
from qvla.planning.explorer import explore
from qvla.planning.sites import Site, Tower
from qvla.records.reported import reported_adapters
from qvla.settings import Settings
from qvla.ui.compare.offers import Offer
from qvla.ui.explore.answer import operations, render_code, render_facts
from qvla.ui.explore.comparison_table import HEADS, comparison_csv, render_comparison
from qvla.ui.explore.diagram import draw_layers, draw_matrices, layers_in_words
from qvla.ui.explore.form import SHOWN, ExploreForm
from qvla.ui.explore.reported import render_claims, render_reported, verdict
from tests.support.adapted import load

SITE = Site("a.q_proj", "", 0, 300, 200, {"lora_A": (8, 300), "lora_B": (200, 8), "bias": (200,)})


def svg_of(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(re.search(r"<svg.*</svg>", html, re.DOTALL)[0])


def of_class(svg: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [one for one in svg.iter("rect") if one.get("class") == name]


class Rows(HTMLParser):
    """The texts of a table's cells, row by row."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: object) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_what_is_lit_is_what_is_touched(tiny_checkpoint: Path) -> None:
    found = explore(tiny_checkpoint, "lora", layers=[0, 2], lora_targets=["q_proj", "up_proj"])
    svg = svg_of(draw_layers(found.towers))
    assert svg.get("role") == "img" and len(of_class(svg, "lit")) == len(found.sites) == 4
    cells = sum(tower.layers * len(tower.rows) for tower in found.towers)
    assert len(of_class(svg, "unlit")) == cells - 4
    named = {one.get("id"): one.text for one in svg.iter() if one.get("id")}
    title, words = (named[name] for name in svg.get("aria-labelledby").split())
    assert title == "Layers that are touched"
    assert words == layers_in_words(found.towers)
    assert "Vision tower, 2 layers: none touched." in words
    assert "Language decoder, 3 layers: q_proj, up_proj in layers 0, 2." in words
    _, _, width, height = map(float, svg.get("viewBox").split())
    for rect in svg.iter("rect"):
        assert float(rect.get("x")) + float(rect.get("width")) <= width
        assert float(rect.get("y")) + float(rect.get("height")) <= height


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([5], "layer 5"),
        ([0, 1, 2, 3], "layers 0 to 3"),
        ([0, 2, 4, 6], "layers 0 to 6, every 2"),
        ([1, 2, 7], "layers 1 to 2, 7"),
    ],
)
def test_layers_are_told_in_words(layers: list[int], words: str) -> None:
    tower = Tower("Tower", 40, ("mlp.fc1",), frozenset((layer, "mlp.fc1") for layer in layers))
    assert layers_in_words([tower]) == f"Tower, 40 layers: fc1 in {words}."
    beside = layers_in_words([tower], [SITE])
    assert beside.endswith("Besides: q_proj.")


def test_matrices_have_their_real_sizes_in_words_and_in_proportion() -> None:
    svg = svg_of(draw_matrices(SITE))
    texts = [one.text for one in svg.iter("text")]
    assert texts[-3:] == ["1. W of q_proj: 200 × 300", "2. lora_A: 8 × 300", "3. lora_B: 200 × 8"]
    whole, down, up = svg.iter("rect")
    area = {one: float(one.get("width")) * float(one.get("height")) for one in (whole, down, up)}
    assert area[down] < area[whole] and area[up] < area[whole]
    assert float(down.get("width")) == float(whole.get("width"))
    assert float(up.get("height")) == float(whole.get("height"))
    assert draw_matrices(Site("x", "", None, None, None, {"bias": (3,)})) == ""


def test_figures_and_code_are_those_that_were_counted(tiny_checkpoint: Path) -> None:
    found = explore(tiny_checkpoint, "full")
    facts = render_facts(found)
    assert f"<b>{found.trainable_params:,}</b>" in facts and found.nf4_reason in unescape(facts)
    code = unescape(render_code(found))
    assert found.command in code and found.code.strip() in code
    assert code.count('class="copy"') == 2
    assert [operations(n) for n in (None, 0, 12, 40_642_560)] == [
        *("not counted", "none", "12 operations", "40.6 million operations")
    ]


def test_the_table_has_a_row_for_every_method(tiny_checkpoint: Path) -> None:
    rows = compare(tiny_checkpoint, precision="nf4")
    shown = Rows(render_comparison(rows, "tiny")).rows
    assert len(shown) == 1 + len(METHODS) and {len(row) for row in shown} == {len(HEADS)}
    titles = {row[0]: row for row in shown[1:]}
    for name, method in METHODS.items():
        row = titles[method.title]
        found = next(one for one in rows if one.method == name)
        trained = getattr(found, "trainable_params", None)
        assert row[1] == (f"{trained:,}" if trained is not None else found.reason)
    panes = {"lora": Offer("ships", "Ships <b>")}
    table = render_comparison(rows, "tiny", panes)
    assert table.count('data-pane="ships"') == table.count("data-pane") == 1
    assert "Compare Ships &lt;b&gt;, LoRA" in table and 'data-tune="lora"' not in table
    assert 'data-tune="vera"' in table
    with open(comparison_csv(rows, "tiny"), newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert list(written[0]) == list(COLUMNS)
    assert [one["method"] for one in written] == list(METHODS)


def test_lora_by_names_is_in_both_towers_as_peft_puts_it(tiny_checkpoint: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(load(tiny_checkpoint), config)
    due = model.get_nb_trainable_parameters()
    assert lora_by_names(str(tiny_checkpoint), 4, ("q_proj", "v_proj")) == due
    assert any("vision_tower" in name and "lora_A" in name for name, _ in model.named_parameters())


def test_reported_figures_are_marked_and_their_difference_is_said(tiny_checkpoint: Path) -> None:
    tables = Rows(render_reported()).rows
    told = reported_adapters()
    assert len(tables) == 2 + len(told["results"]) + len(told["placements"])
    for row in tables:
        assert all("reported" in cell for cell in row[1:]) or row[0] in ("Method", "Placement")
    assert "TaskType.MULTIMODAL" in render_reported()
    far = Claim("LoRA", "37,748,736", 37_748_736, 8, 19_922_944)
    assert not far.agrees
    assert verdict(far) == "17,825,792 more than counted (1.89 times)"
    near = Claim("LoRA", "19M", 19_000_000, 2, 19_136_512)
    assert near.agrees and verdict(near) == "none, in its digits"
    less = Claim("LoRA", "0.1M", 100_000, 1, 19_136_512)
    assert verdict(less).startswith("19,036,512 less than counted (191 times)")
    counted = claims(str(tiny_checkpoint))
    assert [one.said for one in counted] == [one["said"] for one in told["claims"]]
    assert [row[1] for row in Rows(render_claims(counted)).rows[1:]] == [
        f"{one.said}reported" for one in counted
    ]


def test_the_form_takes_over_a_methods_usual_settings_and_tells_where_it_was_moved() -> None:
    with gr.Blocks():
        form = ExploreForm(Settings())
    names = [field.name for field in SHOWN]
    usual = form.usual("vera")
    assert usual[names.index("rank")] == METHODS["vera"].defaults["rank"]
    values = [Settings().model_name, "vera", "", *usual]
    assert form.moved(values) == {}
    values[3 + names.index("layers")] = "0, 2-3"
    assert form.moved(values) == {"layers": [0, 2, 3]}
    _, method, precision, given = form.chosen(values)
    assert (method, precision, given["rank"]) == ("vera", None, METHODS["vera"].defaults["rank"])
    values[3 + names.index("rank")] = 10**9
    with pytest.raises(QvlaError, match="rank can be 1,000,000 at most"):
        form.chosen(values)
    values[3 + names.index("rank")] = 4
    for model in ("/etc", "someone/other-model"):  # nothing is fetched on a visitor's behalf
        with pytest.raises(QvlaError, match=r"neither a hub id|is not at hand"):
            form.chosen([model, *values[1:]])
