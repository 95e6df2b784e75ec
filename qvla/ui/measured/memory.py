"""The Memory tab: what the variants take when loaded, captioning and training, and the planner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from qvla.captioning.contenders import TITLES
from qvla.records.reported import reported
from qvla.ui import units
from qvla.ui.figures import Series, bars, colours, lines
from qvla.ui.measured.against import another_model, beside, report_exhibit
from qvla.ui.measured.exhibits import Entry, Exhibit, entries_bars, entries_csv, entries_table
from qvla.ui.measured.planner import PlannerForm
from qvla.ui.measured.subjects import Subject, Value, titles
from qvla.ui.measured.tab import UNMEASURED, MeasuredTab, Update, notes_html
from qvla.ui.tables import Kind, write_csv

WHATS = ("bench/memory", "bench/training", "bench/report")
CURVES_AT = ("bench/training", "bench/report")
GB = 1e9
LOADED, LOADING, CAPTIONING = "Loaded", "Loading, peak", "Captioning, peak"
CURVE_COLUMNS = ("quantity", "variant", "kind", "seconds", "bytes", "record")
MEAN, PEAK, PLAIN_PEAK = "Mean", "Peak", "Peak of a plain loop"
MEAN_TRAINING = "Training, mean"
# where a record may have the quantity, `{}` being the variant
LOADED_AT = (("bench/memory", "{}/loaded_bytes"), ("bench/report", "table_2/{}/load_bytes"))
LOADING_AT = (("bench/memory", "{}/loading_peak_bytes"),)
CAPTIONING_AT = (("bench/memory", "{}/captioning_peak_bytes"),)
PEAK_AT = (
    ("bench/training", "{}/peak_bytes"),
    ("bench/report", "table_2/{}/training_bytes"),
    ("bench/memory", "{}/training_peak_bytes"),
)
PLAIN_AT = (("bench/training", "{}/plain_peak_bytes"),)
# what the planner said of it, beside what it then was
FORESEEN = (
    ("Weights", "planned_weights_bytes", "weights_bytes"),
    (CAPTIONING, "planned_captioning_peak_bytes", "captioning_peak_bytes"),
    ("Training, peak", "planned_training_peak_bytes", "training_peak_bytes"),
    (
        "Activations of a step",
        "planned_training_activation_bytes",
        "training_activation_bytes",
    ),
)


def holding(subject: Subject | None) -> list[Entry]:
    """Memory after loading, and the peaks around it, as measured."""
    if subject is None:
        return []
    places = ((LOADED, LOADED_AT), (LOADING, LOADING_AT), (CAPTIONING, CAPTIONING_AT))
    return [entry for name, at in places for entry in _measured(subject, name, at)]


def training(subject: Subject | None) -> list[Entry]:
    """The mean and the peaks of memory in training, as measured.

    The plain loop is one like the report's, for comparison with this code's.
    """
    if subject is None:
        return []
    entries = []
    for variant in subject.titles:
        curve = subject.curve(variant, CURVES_AT)
        if curve is not None:
            mean = sum(curve[1]) / len(curve[1])
            entries.append(Entry(MEAN, variant, "measured", mean, "bytes", record=curve[2]))
    entries += _measured(subject, PEAK, PEAK_AT)
    return entries + _measured(subject, PLAIN_PEAK, PLAIN_AT)


def against(subject: Subject | None) -> list[Entry]:
    """Table II's memory as reported, with what was measured of the same things.

    That of training is the mean of Figure 3.
    """
    loaded = [one for one in holding(subject) if one.quantity == LOADED]
    trained = [
        replace(one, quantity=MEAN_TRAINING) for one in training(subject) if one.quantity == MEAN
    ]
    return [
        *_reported(LOADED, "load_gb"),
        *loaded,
        *_reported(MEAN_TRAINING, "training_gb"),
        *trained,
    ]


def _reported(quantity: str, name: str) -> list[Entry]:
    figures = {variant: reported()["table_2"][variant][name] for variant in TITLES}
    return [
        Entry(quantity, variant, "reported", figure * GB, "bytes")
        for variant, figure in figures.items()
        if figure is not None
    ]


def _measured(
    subject: Subject, quantity: str, places: Sequence[tuple[str, str]], kind: Kind = "measured"
) -> list[Entry]:
    entries = []
    for variant in subject.titles:
        value = subject.value(*((what, name.format(variant)) for what, name in places))
        if value is not None:
            entries.append(Entry.measured(quantity, variant, "bytes", value, kind))
    return entries


def curves(subject: Subject | None) -> list[Series]:
    """Memory in GB over the seconds of a training, as in the report's Figure 3."""
    series = []
    colour_of = colours(titles(subject))
    for variant, title in subject.titles.items() if subject else ():
        curve = subject.curve(variant, CURVES_AT)
        if curve is not None:
            times, sizes, _ = curve
            heights = [size / GB for size in sizes]
            colour = colour_of[variant]
            series.append(Series(title, times, heights, variant, colour=colour))
    return series


def curve_rows(subject: Subject | None) -> list[tuple[object, ...]]:
    """The figures of `training`, then the measured curves point by point, for CURVE_COLUMNS."""
    rows: list[tuple[object, ...]] = [
        (entry.quantity, entry.variant, entry.kind, "", entry.value, entry.record)
        for entry in training(subject)
    ]
    for variant in subject.titles if subject else ():
        curve = subject.curve(variant, CURVES_AT)
        if curve is not None:
            times, sizes, record = curve
            rows += [
                ("Curve", variant, "measured", time, size, record)
                for time, size in zip(times, sizes, strict=True)
            ]
    return rows


def foreseen(subject: Subject | None) -> list[Entry]:
    """What the planner says of a model next to what was measured, both from the same record."""
    if subject is None:
        return []
    entries = []
    for quantity, planned, measured in FORESEEN:
        foretold = _measured(subject, quantity, (("bench/memory", f"{{}}/{planned}"),), "planned")
        if foretold:
            entries += foretold
            entries += _measured(subject, quantity, (("bench/memory", f"{{}}/{measured}"),))
    return entries


def shares(subject: Subject | None, group: str) -> list[Entry]:
    """Bytes of the weights by `parts` of the model or by `dtypes`, from the newest record."""
    entries = []
    for variant in subject.titles if subject else ():
        prefix = f"{variant}/{group}/"
        for one in subject.of("bench/memory"):
            numbers = one.record.numbers
            own = [name for name in numbers if name.startswith(prefix) and numbers[name]]
            for name in own:
                share = name.removeprefix(prefix).removesuffix("_bytes").replace("_", " ")
                value = Value(numbers[name], one.path.stem)
                entries.append(Entry.measured(share, variant, "bytes", value))
            if own:
                break
    return entries


NO_CURVE = "No curve has been measured yet: run <code>python -m qvla bench --suite training</code>."


class MemoryTab(MeasuredTab):
    """Builds the tab inside an open `gr.Tab` and wires its events."""

    name = "memory"
    title = "Memory"
    lead = "What each variant takes when it is loaded, captions and trains."
    subject_of_sentence = "memory"
    suite = "memory"
    small = ("--photos", "2", "--memory-repeats", "1")
    whats = WHATS

    def lay_out(self) -> Sequence[Any]:
        with gr.Row(elem_classes="exhibits"):
            self.holding = Exhibit("memory-loaded", "Loaded and captioning")
            self.training = Exhibit("memory-training", "While training")
        self.parts = Exhibit("memory-parts", "Where the weights' bytes are")
        self.planner = PlannerForm(self.settings)
        self.foreseen = Exhibit(
            "memory-foreseen",
            "Planned and measured",
            "What the planner foretold of the models that were then measured.",
            plot=False,
        )
        self.report = report_exhibit(self.name)
        return ()

    def opened_with(self, tab: gr.Tab) -> None:
        super().opened_with(tab)
        self.planner.show_on(tab.select, "plan_on_open")

    @property
    def exhibits(self) -> tuple[Exhibit, ...]:
        return (self.holding, self.training, self.parts, self.foreseen, self.report)

    def show(self, subject: Subject | None) -> Update:
        return {
            **self._holding(subject),
            **self._training(subject),
            **self._parts(subject),
            **self._foreseen(subject),
            **self._against(subject),
        }

    def _holding(self, subject: Subject | None) -> Update:
        entries = holding(subject)
        if not entries:
            return self.holding.show(None, UNMEASURED, None)
        scale, unit = _unit([entry.value for entry in entries])
        named = titles(subject)
        return self.holding.show(
            entries_bars(entries, named, y_title=f"Memory, {unit}", unit=unit, scale=scale),
            entries_table(entries, _shown, named, first="Memory", caption="Memory by variant"),
            entries_csv("qvla-memory", entries),
        )

    def _training(self, subject: Subject | None) -> Update:
        entries, series = training(subject), curves(subject)
        if not entries:
            return self.training.show(None, UNMEASURED, None)
        note = [] if series else [NO_CURVE]
        table = entries_table(
            entries, _shown, titles(subject), first="Training", caption="Memory while training"
        )
        return self.training.show(
            lines(series, x_title="Seconds", y_title="Memory, GB", unit="GB") if series else None,
            table + notes_html(html=note),
            write_csv("qvla-memory-in-training", CURVE_COLUMNS, curve_rows(subject)),
        )

    def _against(self, subject: Subject | None) -> Update:
        entries = against(subject)
        notes = another_model(subject and subject.model)
        return self.report.show(
            None,
            beside(entries, _shown, titles(subject), caption="Memory as reported and as measured")
            + notes_html(*notes, reported()["notes"]["load_precision"]),
            entries_csv("qvla-memory-against-the-report", entries),
        )

    def _parts(self, subject: Subject | None) -> Update:
        parts, dtypes = shares(subject, "parts"), shares(subject, "dtypes")
        if not parts:
            return self.parts.show(None, UNMEASURED, None)
        named = titles(subject)
        sums = [sum(e.value for e in parts if e.variant == variant) for variant in named]
        scale, unit = _unit(sums)
        variants = [variant for variant, size in zip(named, sums, strict=True) if size]
        by_place = {(entry.quantity, entry.variant): entry.value for entry in parts}
        series = [
            Series(
                part,
                [named[variant] for variant in variants],
                [by_place.get((part, variant), 0.0) / scale for variant in variants],
            )
            for part in dict.fromkeys(entry.quantity for entry in parts)
        ]
        figure = bars(series, y_title=f"Weights, {unit}", unit=unit, stacked=True)
        table = entries_table(
            parts, _shown, named, first="Part", caption="Bytes of the weights by part"
        )
        if dtypes:
            table += entries_table(
                dtypes,
                _shown,
                named,
                first="Data type",
                caption="Bytes of the weights by data type",
            )
        return self.parts.show(figure, table, entries_csv("qvla-memory-parts", [*parts, *dtypes]))

    def _foreseen(self, subject: Subject | None) -> Update:
        entries = foreseen(subject)
        if not entries:
            return self.foreseen.show(None, UNMEASURED, None)
        table = entries_table(
            entries,
            _shown,
            titles(subject),
            first="Memory",
            caption="Memory as planned and as measured",
        )
        return self.foreseen.show(None, table, entries_csv("qvla-memory-planned", entries))


def _shown(entry: Entry) -> str:
    return f"{entry.value / GB:g} GB" if entry.kind == "reported" else units.size(entry.value)


def _unit(values: Sequence[float]) -> tuple[float, str]:
    return (GB, "GB") if max(values, default=0) >= GB else (1e6, "MB")
