"""The Memory tab: what the variants take when loaded, captioning and training, and the planner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from qvla.captioning.contenders import TITLES
from qvla.records.reported import reported
from qvla.ui import units
from qvla.ui.figures import Series, bars, colours, far_apart, lines
from qvla.ui.measured.exhibits import Entry, Exhibit, entries_bars, entries_csv, entries_table
from qvla.ui.measured.planner import PlannerForm
from qvla.ui.measured.subjects import Subject, Value, is_reports_model, titles
from qvla.ui.measured.tab import UNMEASURED, MeasuredTab, Update, notes_html
from qvla.ui.tables import Kind, write_csv

WHATS = ("bench/memory", "bench/training", "bench/report")
CURVES_AT = ("bench/training", "bench/report")
GB = 1e9
LOADED, LOADING, CAPTIONING = "Loaded", "Loading, peak", "Captioning, peak"
CURVE_COLUMNS = ("quantity", "variant", "kind", "seconds", "bytes", "record")
MEAN, PEAK, PLAIN_PEAK = "Mean", "Peak", "Peak of a plain loop"
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
    """Table II's memory after loading, reported and measured, and peaks around it."""
    entries = _reported(LOADED, "load_gb")
    if subject is not None:
        entries += _measured(subject, LOADED, LOADED_AT)
        entries += _measured(subject, LOADING, LOADING_AT)
        entries += _measured(subject, CAPTIONING, CAPTIONING_AT)
    return entries


def training(subject: Subject | None) -> list[Entry]:
    """Table II's memory in training, which is Figure 3's mean; and the peaks measured.

    The plain loop is one like the report's, for comparison with this code's.
    """
    entries = _reported(MEAN, "training_gb")
    if subject is None:
        return entries
    for variant in subject.titles:
        curve = subject.curve(variant, CURVES_AT)
        if curve is not None:
            mean = sum(curve[1]) / len(curve[1])
            entries.append(Entry(MEAN, variant, "measured", mean, "bytes", record=curve[2]))
    entries += _measured(subject, PEAK, PEAK_AT)
    return entries + _measured(subject, PLAIN_PEAK, PLAIN_AT)


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
    """Figure 3 in GB. The report's own curves are known by their means, drawn as level lines."""
    series = []
    colour_of = colours(titles(subject))
    for variant, title in subject.titles.items() if subject else ():
        curve = subject.curve(variant, CURVES_AT)
        if curve is not None:
            times, sizes, _ = curve
            heights = [size / GB for size in sizes]
            colour = colour_of[variant]
            series.append(Series(title, times, heights, variant, colour=colour))
    end = max((one.x[-1] for one in series), default=1.0)
    for entry in _reported(MEAN, "training_gb"):
        height = entry.value / GB
        name = TITLES[entry.variant]
        series.append(Series(name, (0.0, end), (height, height), entry.variant, "reported"))
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
            self.holding = Exhibit(
                "memory-loaded",
                "Loaded and captioning",
                "Table II of the report says what the weights took once loaded.",
            )
            self.training = Exhibit(
                "memory-training",
                "While training",
                "Of the report's Figure 3 only the means are known, which are in its Table II: the "
                "dashed lines.",
            )
        self.parts = Exhibit("memory-parts", "Where the weights' bytes are")
        self.planner = PlannerForm(self.settings)
        self.foreseen = Exhibit(
            "memory-foreseen",
            "Planned and measured",
            "What the planner foretold of the models that were then measured.",
            plot=False,
        )
        return ()

    def opened_with(self, tab: gr.Tab) -> None:
        super().opened_with(tab)
        self.planner.show_on(tab.select, "plan_on_open")

    @property
    def exhibits(self) -> tuple[Exhibit, ...]:
        return (self.holding, self.training, self.parts, self.foreseen)

    def show(self, subject: Subject | None) -> Update:
        return {
            **self._holding(subject),
            **self._training(subject),
            **self._parts(subject),
            **self._foreseen(subject),
        }

    def _holding(self, subject: Subject | None) -> Update:
        entries = holding(subject)
        scale, unit = _unit([entry.value for entry in entries])
        named = titles(subject)
        table = entries_table(entries, _shown, named, first="Memory", caption="Memory by variant")
        notes = [reported()["notes"]["load_precision"]]
        if subject is not None and not is_reports_model(subject.model):
            notes.insert(
                0,
                f"The report measured {reported()['model']}. {subject.model} is another model: "
                "compare its variants with each other, not its bytes with the report's.",
            )
        return self.holding.show(
            entries_bars(
                entries,
                named,
                y_title=f"Memory, {unit}",
                unit=unit,
                scale=scale,
                may_be_logarithmic=True,
            ),
            table + notes_html(*notes),
            entries_csv("qvla-memory", entries),
        )

    def _training(self, subject: Subject | None) -> Update:
        series = curves(subject)
        logarithmic = far_apart(series)
        figure = lines(
            series,
            x_title="Seconds",
            y_title="Memory, GB, logarithmic" if logarithmic else "Memory, GB",
            unit="GB",
            logarithmic=logarithmic,
        )
        table = entries_table(
            training(subject),
            _shown,
            titles(subject),
            first="Training",
            caption="Memory while training",
        )
        measured = any(one.kind == "measured" for one in series)
        if measured:
            note = "The report trained for hours; its mean is drawn across the time measured here."
        else:
            figure.update_xaxes(showticklabels=False, title_text="")  # time has no scale then
            note = (
                "No curve has been measured yet: run <code>python -m qvla bench --suite "
                "training</code>."
            )
        return self.training.show(
            figure,
            table + notes_html(html=[note]),
            write_csv("qvla-memory-in-training", CURVE_COLUMNS, curve_rows(subject)),
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
