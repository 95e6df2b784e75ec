"""An evaluation record as tables, figures and sentences, and the report's Table III beside it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from qvla.records.reported import reported
from qvla.ui.contenders import titles_of
from qvla.ui.measured.against import another_model, beside
from qvla.ui.measured.evaluations import ALL, Evaluation, Score
from qvla.ui.measured.exhibits import Entry, entries_bars, entries_csv, entries_table
from qvla.ui.measured.tab import notes_html
from qvla.ui.tables import Cell, render_table, write_csv
from qvla.ui.units import UNKNOWN

if TYPE_CHECKING:
    import plotly.graph_objects as go

PROTOCOLS = {"standard": "Standard protocol", "reported": "Reported protocol"}
METRICS = ("CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "METEOR")
UNIT = "CIDEr"
MAIN_PAIR = ("qvla", "adapter")


class Shown(NamedTuple):
    """What an exhibit shows: a figure, a table as HTML, and the path of a CSV file."""

    figure: go.Figure | None
    table: str
    csv: str | None


def by_protocol(evaluation: Evaluation) -> Shown:
    """CIDEr of all photos by each protocol."""
    entries = [
        entry
        for protocol, name in PROTOCOLS.items()
        for entry in _entries(evaluation, protocol, "CIDEr", ALL, name)
    ]
    if not entries:
        return Shown(None, _empty("This record holds no CIDEr."), None)
    titles = evaluation.titles
    return Shown(
        entries_bars(entries, titles, y_title="CIDEr", unit=""),
        entries_table(entries, _in_words, titles, first="Protocol", caption="CIDEr by variant"),
        entries_csv("qvla-cider", entries),
    )


def against(evaluation: Evaluation | None) -> Shown:
    """Table III as reported, and what was measured by the same protocol."""
    entries = [
        Entry(UNIT, variant, "reported", value, UNIT)
        for variant, value in reported()["table_3_cider"].items()
    ]
    if evaluation:
        entries += _entries(evaluation, "reported", "CIDEr", ALL, UNIT)
    notes = [
        *another_model(evaluation and evaluation.record.model),
        *(reported()["notes"][name] for name in ("cider_protocol", "base_prompt", "no_repeats")),
    ]
    titles = evaluation.titles if evaluation else titles_of()
    caption = "CIDEr by the reported protocol, as reported and as measured"
    return Shown(
        None,
        beside(entries, _in_words, titles, caption=caption) + notes_html(*notes),
        entries_csv("qvla-cider-against-the-report", entries),
    )


def by_source(evaluation: Evaluation, protocol: str) -> Shown:
    """CIDEr of each source, by one protocol in the figure and by both in the table."""
    rows, drawn = [], []
    for group in evaluation.groups:
        for one in PROTOCOLS:
            name = _group_name(evaluation, one, group)
            rows += _entries(evaluation, one, "CIDEr", group, f"{name}, {one}")
            if one == protocol:
                drawn += _entries(evaluation, one, "CIDEr", group, name)
    if not rows:
        return Shown(None, _empty("This record holds no CIDEr."), None)
    titles = evaluation.titles
    table = entries_table(rows, _in_words, titles, first="Photos", caption="CIDEr by source")
    note = (
        "CIDEr weighs words by how few of the scored photos' captions use them, so a source's "
        "value belongs to its photos alone: compare variants within a row, not rows."
    )
    figure = entries_bars(drawn, titles, y_title=f"CIDEr, {protocol}", unit="") if drawn else None
    return Shown(figure, table + notes_html(note), entries_csv("qvla-cider-by-source", rows))


def other_metrics(evaluation: Evaluation, protocol: str) -> Shown:
    """BLEU, ROUGE-L and METEOR of all photos."""
    metrics = [metric for metric in METRICS if metric != "CIDEr"]
    entries, rows = [], []
    for metric in metrics:
        found = _entries(evaluation, protocol, metric, ALL, metric)
        entries += found
        rows += [] if found else [metric]
    notes = []
    if "METEOR" in rows:
        notes.append(
            "METEOR is not in this record: it needs Java, and is left out of quick evaluations."
        )
    if not entries:
        return Shown(None, _empty("This record holds no other metric by this protocol."), None)
    table = entries_table(
        entries,
        _in_words,
        evaluation.titles,
        first="Metric",
        caption=f"Other metrics, {protocol} protocol",
    )
    return Shown(None, table + notes_html(*notes), entries_csv(f"qvla-metrics-{protocol}", entries))


def differences(evaluation: Evaluation, protocol: str) -> Shown:
    """Whether variants really differ: the main pair in words, all pairs in a table."""
    rows, cells = [], []
    for first, second in evaluation.pairs:
        name = f"{evaluation.titles[first]} minus {evaluation.titles[second]}"
        line = []
        for group in evaluation.groups:
            score = evaluation.difference(protocol, first, second, group=group)
            line.append(_difference_cell(score, evaluation.stem))
            if score is not None:
                row = (protocol, group, first, second, score.value, score.low, score.high)
                rows.append((*row, score.p_value, evaluation.stem))
        if any(cell.text != UNKNOWN for cell in line):
            cells.append((name, line))
    if not cells:
        return Shown(None, _empty("This record compares no two variants by this protocol."), None)
    head = ("CIDEr", *(_group_name(evaluation, protocol, group) for group in evaluation.groups))
    table = render_table(head, cells, caption=f"Paired differences, {protocol} protocol")
    columns = "protocol,photos,first,second,difference,low,high,p_value,record".split(",")
    return Shown(
        None,
        verdict(evaluation, protocol) + table + notes_html(*_bootstrap_notes(evaluation)),
        write_csv(f"qvla-differences-{protocol}", columns, rows),
    )


def verdict(evaluation: Evaluation, protocol: str) -> str:
    """The answer to whether QVLA differs from the adapter, in a sentence.

    Where the record does not compare these two, it is about the last pair that it compares.
    """
    pairs = evaluation.pairs
    if not pairs:
        return ""
    pair = MAIN_PAIR if MAIN_PAIR in pairs else pairs[-1]
    score = evaluation.difference(protocol, *pair)
    if score is None:
        return ""
    answer, sentence = in_words(
        score, *(evaluation.titles[name] for name in pair), evaluation.images(protocol)
    )
    state = "differs" if score.shown_to_differ else "open"
    return f'<p class="verdict" data-state="{state}"><b>{answer}</b> {escape(sentence)}</p>'


def in_words(score: Score, first: str, second: str, photos: int | None) -> tuple[str, str]:
    """Yes or no, and the sentence for it, of a paired difference `first` minus `second`."""
    p_value = "" if score.p_value is None else f", {_p_in_words(score.p_value)}"
    interval = f"95 % interval {signed(score.low)} to {signed(score.high)}{p_value}"
    side = "more" if score.value > 0 else "less"
    by = f"{first} scores {abs(score.value):.3f} {side} than {second}"
    if score.shown_to_differ:
        return "Yes.", f"{by} ({interval})."
    on = f"these {photos:,} photos" if photos else "these photos"
    return (
        "Not that these photos show.",
        f"{by}, but the interval holds zero ({interval}): on {on} the two cannot be told apart.",
    )


def signed(value: float | None) -> str:
    """With its sign, and a true minus."""
    return UNKNOWN if value is None else f"{value:+.3f}".replace("-", "−")


def score_text(score: Score) -> str:
    """A score, and on a line of its own its 95 % interval."""
    if None in (score.low, score.high):
        return f"{score.value:.3f}"
    return f"{score.value:.3f}\n{score.low:.3f} to {score.high:.3f}"


def _in_words(entry: Entry) -> str:
    if entry.kind == "reported":
        return f"{entry.value:g}"
    return score_text(Score(entry.value, entry.low, entry.high))


def _entries(
    evaluation: Evaluation, protocol: str, metric: str, group: str, quantity: str
) -> list[Entry]:
    entries = []
    for variant in evaluation.variants:
        score = evaluation.score(protocol, variant, metric, group)
        if score is not None:
            ends = (score.low, score.high, evaluation.stem)
            entries.append(Entry(quantity, variant, "measured", score.value, metric, *ends))
    return entries


def _group_name(evaluation: Evaluation, protocol: str, group: str) -> str:
    images = evaluation.images(protocol, group)
    name = "All photos" if group == ALL else group
    return f"{name} ({images:,})" if images is not None else name


def _difference_cell(score: Score | None, record: str) -> Cell:
    if score is None:
        return Cell(UNKNOWN)
    p_value = "" if score.p_value is None else f"\n{_p_in_words(score.p_value)}"
    ends = f"\n{signed(score.low)} to {signed(score.high)}{p_value}"
    return Cell(signed(score.value) + ends, "measured", record)


def _p_in_words(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _bootstrap_notes(evaluation: Evaluation) -> Iterable[str]:
    protocol = evaluation.record.protocol
    resamples, frequencies = protocol.get("resamples"), protocol.get("document_frequencies")
    count = f" of {resamples:,} resamples" if isinstance(resamples, int) else ""
    held = f"; document frequencies: {frequencies}" if isinstance(frequencies, str) else ""
    yield (
        f"Intervals are of a bootstrap{count} over photos, paired for differences{held}. They "
        "cover the choice of photos, not that another training run would end elsewhere."
    )


def _empty(sentence: str) -> str:
    return f'<p class="empty">{escape(sentence)}</p>'
