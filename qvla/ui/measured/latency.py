"""The Latency tab: time to the first token and for each further one, and images a second."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from qvla.captioning.contenders import TITLES
from qvla.records.reported import reported
from qvla.ui import units
from qvla.ui.figures import Series, colours, lines
from qvla.ui.measured.against import another_model, beside, report_exhibit
from qvla.ui.measured.exhibits import Entry, Exhibit, entries_bars, entries_csv, entries_table
from qvla.ui.measured.subjects import Subject, titles
from qvla.ui.measured.tab import UNMEASURED, MeasuredTab, Update, notes_html

WHATS = ("bench/latency", "bench/report", "bench/training")
LATENCY = "bench/latency"
STOPS = (("where the model ends them", "natural"), ("after a fixed number of tokens", "fixed"))
FIRST, FURTHER = "First token", "Each further token"
TOKENS = "Tokens a caption"
FLOOR = "Floor of a token"
RATE = "Images a second"
PLACE = re.compile(r"(?P<variant>[\w-]+)/(?P<stop>\w+)/batch_(?P<batch>\d+)/(?P<name>\w+)")
CAPTIONING, TRAINING = "Captioning", "Training"


def batches(subject: Subject, stop: str) -> list[int]:
    """The batch sizes measured, ascending."""
    found = (PLACE.fullmatch(name) for one in subject.of(LATENCY) for name in one.record.numbers)
    return sorted({int(match["batch"]) for match in found if match and match["stop"] == stop})


def figures_of(subject: Subject, stop: str, batch: int, names: dict[str, str]) -> list[Entry]:
    """Measured figures of every variant at one batch size. `names` is quantity to name."""
    entries = []
    for quantity, name in names.items():
        for variant in subject.titles:
            value = subject.value((LATENCY, f"{variant}/{stop}/batch_{batch}/{name}"))
            if value is not None:
                unit = "s" if name.endswith("_seconds") else "tokens"
                unit = "images/s" if name.endswith("_per_second") else unit
                entries.append(Entry.measured(quantity, variant, unit, value))
    return entries


def first_and_further(subject: Subject, stop: str) -> list[Entry]:
    """Time to the first token and for each further one, at the smallest batch."""
    sizes = batches(subject, stop)
    if not sizes:
        return []
    timed = {FIRST: "first_token_seconds", FURTHER: "token_seconds"}
    entries = figures_of(subject, stop, sizes[0], timed)
    for variant in subject.titles:
        floor = subject.value((LATENCY, f"{variant}/floor_token_seconds"))
        if floor is not None:
            entries.append(Entry.measured(FLOOR, variant, "s", floor))
    return entries + figures_of(subject, stop, sizes[0], {TOKENS: "tokens"})


def throughput(subject: Subject, stop: str) -> list[Entry]:
    """Images a second at each batch size."""
    return [
        entry
        for size in batches(subject, stop)
        for entry in figures_of(subject, stop, size, {f"Batch {size}": "images_per_second"})
    ]


def hours(subject: Subject | None) -> list[Entry]:
    """The report's times for its own numbers of photos: as printed, in the units that they really
    had, and what they would take at the pace measured here; and that pace, images a second.
    """
    report = reported()
    images = report["images"]
    entries = []
    for task, name, count in (
        (CAPTIONING, "inference", images["test"]),
        (TRAINING, "training", images["train"]),
    ):
        whole, pace = f"{task} {count:,} photos", f"{task}, images a second"
        for variant in TITLES:
            printed = report["table_2"][variant].get(f"{name}_hours")
            if printed is not None:
                entries.append(Entry(whole, variant, "reported", printed, "h"))
            seconds = report["table_2_corrected"][variant].get(f"{name}_seconds")
            if seconds is not None:
                entries.append(Entry(whole, variant, "corrected", seconds, "s"))
                rate = count / seconds
                entries.append(Entry(pace, variant, "corrected", rate, "images/s"))
            found = _measured_rate(subject, variant, name) if subject else None
            if found is not None:
                projected = count / found.value
                record = found.record
                entries.append(Entry(whole, variant, "measured", projected, "s", record=record))
                entries.append(replace(found, quantity=pace))
    return entries


def _measured_rate(subject: Subject, variant: str, name: str) -> Entry | None:
    """Images a second of captioning or training, from the report suite or else the newest."""
    places = [("bench/report", f"table_2/{variant}/{name}_images_per_second")]
    if name == "training":
        places.append(("bench/training", f"{variant}/images_per_second"))
    else:
        stop = "natural" if batches(subject, "natural") else "fixed"
        sizes = batches(subject, stop)
        if sizes:
            places.append((LATENCY, f"{variant}/{stop}/batch_{sizes[-1]}/images_per_second"))
    value = subject.value(*places)
    if value is None:
        return None
    return Entry.measured(name, variant, "images/s", value)


class LatencyTab(MeasuredTab):
    """Builds the tab inside an open `gr.Tab` and wires its events."""

    name = "latency"
    title = "Latency"
    lead = "How long a caption takes, from the photo to its first token and from token to token."
    subject_of_sentence = "latency"
    suite = "latency"
    small = ("--photos", "2", "--repeats", "3", "--batch-sizes", "1", "8")
    whats = WHATS

    def lay_out(self) -> Sequence[Any]:
        stop = gr.Radio(
            STOPS,
            value="natural",
            label="Captions end",
            info="variants stop at different lengths; a fixed length makes times comparable",
            elem_id="latency-stop",
        )
        with gr.Row(elem_classes="exhibits"):
            self.tokens = Exhibit("latency-tokens", "One photo at a time")
            self.rates = Exhibit("latency-throughput", "Throughput by batch")
        self.report = report_exhibit(self.name)
        return (stop,)

    @property
    def exhibits(self) -> tuple[Exhibit, ...]:
        return (self.tokens, self.rates, self.report)

    def show(self, subject: Subject | None, stop: str) -> Update:
        return {
            **self._tokens(subject, stop),
            **self._rates(subject, stop),
            **self._against(subject),
        }

    def _tokens(self, subject: Subject | None, stop: str) -> Update:
        entries = first_and_further(subject, stop) if subject else []
        if not entries:
            return self.tokens.show(None, UNMEASURED, None)
        timed = [entry for entry in entries if entry.unit == "s"]
        batch = f"Batch {batches(subject, stop)[0]}"
        table = entries_table(
            entries, _shown, subject.titles, first=batch, caption=f"Seconds to a token, {batch}"
        )
        notes = [_spread(timed)]
        if any(entry.quantity == FLOOR for entry in entries):
            notes.append(
                "The floor of a token is the time in which this machine reads the weights of a "
                "decoding step once: no way of computing can be faster."
            )
        return self.tokens.show(
            entries_bars(
                timed,
                subject.titles,
                y_title="Time, ms",
                unit="ms",
                scale=1e-3,
                may_be_logarithmic=True,
            ),
            table + notes_html(*notes),
            entries_csv(f"qvla-latency-{stop}", entries),
        )

    def _rates(self, subject: Subject | None, stop: str) -> Update:
        entries = throughput(subject, stop) if subject else []
        if not entries:
            return self.rates.show(None, UNMEASURED, None)
        series = []
        colour_of = colours(subject.titles)
        for variant, title in subject.titles.items():
            own = [entry for entry in entries if entry.variant == variant]
            if own:
                series.append(
                    Series(
                        title,
                        [entry.quantity.removeprefix("Batch ") for entry in own],
                        [entry.value for entry in own],
                        variant,
                        "measured",
                        [entry.low for entry in own],
                        [entry.high for entry in own],
                        colour_of[variant],
                    )
                )
        table = entries_table(
            entries, _shown, subject.titles, first=RATE, caption="Images a second, by batch size"
        )
        return self.rates.show(
            lines(series, x_title="Photos in a batch", y_title=RATE, unit="images/s"),
            table + notes_html(_spread(entries)),
            entries_csv(f"qvla-throughput-{stop}", entries),
        )

    def _against(self, subject: Subject | None) -> Update:
        entries = hours(subject)
        paces = {
            (one.quantity.partition(",")[0], one.variant, one.kind): one
            for one in entries
            if one.unit == "images/s"
        }

        def with_pace(entry: Entry) -> str:
            pace = paces.get((entry.quantity.partition(" ")[0], entry.variant, entry.kind))
            both = pace is not None and entry.unit == "s"
            return f"{_shown(entry)}\n{_shown(pace)}" if both else _shown(entry)

        report = reported()
        notes = [
            *another_model(subject and subject.model),
            report["notes"]["inference_units"],
            report["notes"]["training_estimate"],
        ]
        if any(one.kind == "measured" for one in entries):
            notes.append("The times measured are those of as many photos at the pace measured.")
        return self.report.show(
            None,
            beside(
                [one for one in entries if one.unit != "images/s"],
                with_pace,
                titles(subject),
                caption="The report's times, and those here",
            )
            + notes_html(*notes),
            entries_csv("qvla-latency-against-the-report", entries),
        )


def _shown(entry: Entry) -> str:
    if entry.unit == "h":
        return f"{entry.value:g} h"
    if entry.unit == "tokens":
        return f"{entry.value:.1f}"
    if entry.unit == "images/s":
        return f"{units.rate(entry.value)}/s" if entry.value >= 10 else f"{entry.value:.2f}/s"
    if entry.value < 1:
        return f"{entry.value * 1000:.3g} ms"
    return f"{entry.value:.3g} s" if entry.value < 100 else f"{entry.value:,.0f} s"


def _spread(entries: Sequence[Entry]) -> str:
    ranged = any(entry.low is not None for entry in entries)
    return "Medians of repeated turns" + (
        "; the thin lines reach from the lowest turn to the highest." if ranged else "."
    )
