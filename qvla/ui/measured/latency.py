"""The Latency tab: time to the first token and for each further one, and images a second."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from qvla.records.reported import reported
from qvla.ui import units
from qvla.ui.figures import Series, colours, lines
from qvla.ui.measured.exhibits import Entry, Exhibit, entries_bars, entries_csv, entries_table
from qvla.ui.measured.subjects import Subject, is_reports_model, titles
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
    """The report's times: as printed, in the units they really had, and what was measured."""
    report = reported()
    images = report["images"]
    entries = []
    for task, name, count in (
        (CAPTIONING, "inference", images["test"]),
        (TRAINING, "training", images["train"]),
    ):
        printed, corrected, rates, measured, projected = [], [], [], [], []
        for variant in titles(subject):
            value = report["table_2"].get(variant, {}).get(f"{name}_hours")
            if value is not None:
                printed.append(Entry(f"{task}, hours as printed", variant, "reported", value, "h"))
            seconds = report["table_2_corrected"].get(variant, {}).get(f"{name}_seconds")
            if seconds is not None:
                whole = f"{task} {count:,} photos"
                corrected.append(Entry(whole, variant, "corrected", seconds, "s"))
                rates.append(
                    Entry(
                        f"{task}, images a second",
                        variant,
                        "corrected",
                        count / seconds,
                        "images/s",
                    )
                )
            found = _measured_rate(subject, variant, name) if subject else None
            if found is not None:
                measured.append(found)
                projected.append(
                    Entry(
                        f"{task} {count:,} photos at that pace",
                        variant,
                        "measured",
                        count / found.value,
                        "s",
                        record=found.record,
                    )
                )
        entries += printed + corrected + rates + measured + projected
    return entries


def _measured_rate(subject: Subject, variant: str, name: str) -> Entry | None:
    """Images a second of captioning or training, from the report suite or else the newest."""
    quantity = f"{CAPTIONING if name == 'inference' else TRAINING}, images a second"
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
    return Entry.measured(quantity, variant, "images/s", value)


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
        self.hours = Exhibit(
            "latency-hours",
            "The report's hours",
            "Table II as printed, in the units that its numbers really had, and as measured.",
        )
        return (stop,)

    @property
    def exhibits(self) -> tuple[Exhibit, ...]:
        return (self.tokens, self.rates, self.hours)

    def show(self, subject: Subject | None, stop: str) -> Update:
        return {
            **self._tokens(subject, stop),
            **self._rates(subject, stop),
            **self._hours(subject),
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

    def _hours(self, subject: Subject | None) -> Update:
        entries = hours(subject)
        rates = [
            replace(entry, quantity=entry.quantity.partition(",")[0])
            for entry in entries
            if entry.unit == "images/s"
        ]
        report = reported()
        notes = [report["notes"]["inference_units"], report["notes"]["training_estimate"]]
        notes.append(f"The report ran on {report['hardware']}; each of its figures is of one run.")
        if subject is not None and not is_reports_model(subject.model):
            notes.insert(
                0,
                f"{subject.model} is another model than the report's {report['model']}: compare "
                "its variants with each other, not its times with the report's.",
            )
        return self.hours.show(
            entries_bars(
                rates, titles(subject), y_title=RATE, unit="images/s", may_be_logarithmic=True
            ),
            entries_table(
                entries,
                _shown,
                titles(subject),
                first="Time",
                caption="The report's times and those here",
            )
            + notes_html(*notes),
            entries_csv("qvla-hours", entries),
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
