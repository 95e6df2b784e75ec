"""What sweeps measured, as figures, tables and sentences: CIDEr against what each choice costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from qvla.bench.power_law import FitError
from qvla.bench.sweep_results import Choice, Results, front, law_over_rank, over_rank, results_of
from qvla.records.store import Kept
from qvla.ui import units
from qvla.ui.figures import Series, points
from qvla.ui.measured.tab import notes_html
from qvla.ui.tables import Cell, hardware_name, render_table, write_csv

if TYPE_CHECKING:
    import plotly.graph_objects as go

# The page "Vision-Language Adapters: Parameter-efficient Multimodal Fine-tuning": its formula is
# lost, its two constants are not.
CLAIMED_COEFFICIENT, CLAIMED_EXPONENT = 0.2, 0.5
SCORE = "CIDEr"
NO_RUNS = (
    '<p class="empty">No sweep has been measured yet: run <code>python -m qvla sweep --config '
    "assets/sweeps/methods.yaml --data FOLDER</code>. It can be ended at any time and goes on "
    "where it was.</p>"
)
COLUMNS = (
    *("recipe", "method", "seeds", "trained_parameters", "saved_bytes", "train_seconds"),
    *("train_processor_seconds", "train_peak_bytes", "CIDEr", "CIDEr_low", "CIDEr_high", "records"),
)


class Shown(NamedTuple):
    """What an exhibit shows: a figure or none, HTML below it, and the path of a CSV file."""

    figure: go.Figure | None
    html: str
    csv: str | None


class SweepPanel(NamedTuple):
    """The exhibits of one sweep's results, for `Exhibit.show`, and what they are of in words."""

    lead: str
    parameters: Shown
    seconds: Shown
    memory: Shown
    rank: Shown


def sweep_panel(kept: Iterable[Kept]) -> SweepPanel:
    """The largest set of runs that may be compared; see `nothing_measured` where there is none."""
    found = [one for one in results_of(kept) if one.choices]
    if not found:
        return nothing_measured()
    results = found[0]
    choices = sorted(results.choices, key=lambda one: one.score, reverse=True)
    return SweepPanel(
        _lead(results),
        Shown(
            against(choices, lambda one: one.parameters, "Trained parameters"),
            _table(choices) + notes_html(*_failures(results)),
            write_csv("qvla-sweep", COLUMNS, rows(choices)),
        ),
        Shown(against(choices, _seconds, "Seconds of processor time to train"), "", None),
        Shown(against(choices, _peak, "Memory to train, most, bytes"), "", None),
        _over_rank(choices, results.base),
    )


def nothing_measured() -> SweepPanel:
    """What is shown when there are no runs."""
    nothing = Shown(None, "", None)
    return SweepPanel(NO_RUNS, nothing, nothing, nothing, nothing)


def against(
    choices: Sequence[Choice], cost: Callable[[Choice], float | None], x_title: str
) -> go.Figure | None:
    """CIDEr over a cost, a colour a method, with the front of those that none beats in both."""
    told = [(one, value) for one in choices if (value := cost(one))]
    if not told:
        return None
    series = []
    for kind in dict.fromkeys(one.kind for one, _ in told):
        own = sorted(((one, value) for one, value in told if one.kind == kind), key=lambda p: p[1])
        series.append(
            Series(
                kind,
                [value for _, value in own],
                [one.score for one, _ in own],
                low=[one.low for one, _ in own],
                high=[one.high for one, _ in own],
            )
        )
    best = [told[place] for place in front([(value, one.score) for one, value in told])]
    line = Series("Pareto front", [value for _, value in best], [one.score for one, _ in best])
    return points(series, [line], x_title=x_title, y_title=SCORE)


def rows(choices: Iterable[Choice]) -> list[tuple[object, ...]]:
    """A row a choice, for COLUMNS; means of the seeds."""
    return [
        (
            *(one.name, one.kind, len(one.kept), one.parameters),
            *(one.mean(name) for name in COLUMNS[4:8]),
            *(one.score, one.low, one.high),
            " ".join(kept.path.stem for kept in one.kept),
        )
        for one in choices
    ]


def law_sentence(name: str, family: Sequence[Choice], base: float) -> str:
    """The power law fitted over a method's ranks, and whether the page's exponent holds here."""
    try:
        law = law_over_rank(family, base)
    except FitError as error:
        return f"{name}: no law can be fitted to what was gained over the base. {error}"
    gain = "CIDEr less the base's" if base else "CIDEr"
    verdict = (
        f"The claimed exponent of about {CLAIMED_EXPONENT} lies within that"
        if law.holds(CLAIMED_EXPONENT)
        else f"The claimed exponent of about {CLAIMED_EXPONENT} does not hold here"
    )
    flat = ", and neither does more rank help measurably" if law.low <= 0 <= law.high else ""
    flat = flat if not law.holds(CLAIMED_EXPONENT) else ""
    return (
        f"{name}: {gain} = {law.coefficient:.3f} · r^{law.exponent:.3f}, the exponent with a "
        f"standard error of {law.error:.3f} (95 % interval {law.low:.3f} to {law.high:.3f}, "
        f"{law.points} runs, R² {law.explained:.2f}). {verdict}{flat}; the claimed constant is "
        f"about {CLAIMED_COEFFICIENT}."
    )


def _over_rank(choices: Sequence[Choice], untrained: Kept | None) -> Shown:
    families = over_rank(choices)
    if not families:
        return Shown(None, '<p class="empty">No method was measured at three ranks.</p>', None)
    base = 0.0 if untrained is None else untrained.record.number(SCORE)
    series, joined, said = [], [], []
    for name, family in families.items():
        ranks = [one.recipe["rank"] for one in family]
        low, high = [one.low for one in family], [one.high for one in family]
        series.append(Series(name, ranks, [one.score for one in family], low=low, high=high))
        said.append(law_sentence(name, family, base))
        try:
            law = law_over_rank(family, base)
        except FitError:
            continue
        joined.append(Series(f"{name}, power law", ranks, [base + law.at(rank) for rank in ranks]))
    ranks = sorted({rank for one in series for rank in one.x})
    claimed = [base + CLAIMED_COEFFICIENT * rank**CLAIMED_EXPONENT for rank in ranks]
    joined.append(Series("0.2 · r^0.5, reported", ranks, claimed, kind="reported"))
    notes = notes_html(
        "The page claims that performance follows a power of the rank, with α about 0.2 and β "
        "about 0.5. It does not say of which measure; here it is what CIDEr gains over the base "
        "as it was before training, where that was scored.",
        "A point of the fit is one run. The fit treats runs as independent and the photos as "
        "given, so its error is of seeds and of departures from the law alone.",
    )
    paragraphs = "".join(f"<p>{escape(sentence)}</p>" for sentence in said)
    return Shown(points(series, joined, x_title="Rank", y_title=SCORE), paragraphs + notes, None)


def _lead(results: Results) -> str:
    first = results.choices[0].kept[0].record
    runs = sum(len(one.kept) for one in results.choices)
    steps = sorted(
        {int(k.record.number("train_steps")) for one in results.choices for k in one.kept}
    )
    taken = " or ".join(map(str, steps))
    days = sorted({f"{k.record.date:%Y-%m-%d}" for one in results.choices for k in one.kept})
    measured = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return (
        f"<p>{runs} runs of {len(results.choices)} recipes on {escape(first.model)}, {taken} steps "
        f"each, scored on {first.items} photos of the split "
        f"{escape(str(first.protocol['evaluation']['split']))}, on {escape(hardware_name(first))}, "
        f"{measured}. "
        "Ranges go from the lowest to the highest end of the 95 % bootstrap intervals of all "
        "seeds.</p>"
    )


def _table(choices: Sequence[Choice]) -> str:
    body = []
    for one in choices:
        record = one.kept[-1].path.stem
        size, peak = one.mean("saved_bytes"), one.mean("train_peak_bytes")
        texts = (
            f"{one.parameters:,}",
            units.size(None if size is None else round(size)),
            units.seconds(_seconds(one)),
            units.size(None if peak is None else round(peak)),
            f"{one.score:.3f} ({one.low:.3f} to {one.high:.3f})",
        )
        body.append((one.name, [Cell(text, "measured", record) for text in texts]))
    columns = ("Recipe", "Trained", "Saved", "Processor time", "Memory, most", SCORE)
    return render_table(columns, body, caption="Recipes of the sweep, the best first")


def _failures(results: Results) -> list[str]:
    return [
        f"{one.record.variants[0]} failed: {one.record.protocol['failed']}"
        for one in results.failed
    ]


def _seconds(choice: Choice) -> float | None:
    return choice.mean("train_processor_seconds")


def _peak(choice: Choice) -> float | None:
    return choice.mean("train_peak_bytes")
