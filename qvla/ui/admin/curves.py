"""The curves of a run: loss, learning rate, and memory over time as in the report's Figure 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qvla.tuning.events import Row, by_step
from qvla.ui.admin.run_rows import seconds_between
from qvla.ui.figures import Series, lines

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_POINTS = 1000  # of a curve on the page; the file of events has all
MINUTES = 600  # seconds from which on time is told in minutes
LOW = 260  # pixels: several figures are seen at once
# Curves by step of which several runs' are drawn together: the event and the value of its rows.
QUANTITIES = {
    "Training loss": ("step", "loss"),
    "Evaluation loss": ("evaluation", "loss"),
    "Learning rate": ("step", "learning_rate"),
    "Images a second": ("step", "images_per_second"),
}


def loss_figure(rows: Sequence[Row], variant: str) -> go.Figure | None:
    """The loss of training and of evaluation by step; None before the first point."""
    trained, held_out = by_step(list(rows), "step"), by_step(list(rows), "evaluation")
    if not trained and not held_out:
        return None
    series = []
    if trained:
        series.append(_curve("Training loss", trained, "loss", variant))
    if held_out:
        series.append(_curve("Evaluation loss", held_out, "loss"))
    return _figure(series, "Step", "Loss")


def learning_rate_figure(rows: Sequence[Row], variant: str) -> go.Figure | None:
    steps = [row for row in by_step(list(rows), "step") if row.get("learning_rate") is not None]
    if not steps:
        return None
    figure = _figure(
        [_curve("Learning rate", steps, "learning_rate", variant)], "Step", "Learning rate"
    )
    figure.update_yaxes(exponentformat="power")
    return figure


def together(runs: Mapping[str, Sequence[Row]], quantity: str) -> go.Figure:
    """One of QUANTITIES by step, a curve a run; `runs` are rows by the name of the curve."""
    value = QUANTITIES[quantity][1]
    series = [_curve(name, _known(rows, quantity), value) for name, rows in runs.items()]
    return _figure(series, "Step", quantity).update_layout(showlegend=True)


def has(rows: Sequence[Row], quantity: Any) -> bool:
    """Whether a run has told anything of one of QUANTITIES."""
    return quantity in QUANTITIES and bool(_known(rows, quantity))


def _known(rows: Sequence[Row], quantity: str) -> list[Row]:
    event, value = QUANTITIES[quantity]
    return [row for row in by_step(list(rows), event) if row.get(value) is not None]


def memory_figure(rows: Sequence[Row], variant: str) -> go.Figure | None:
    """Peak memory over the time in which the run computed: pauses between attempts are left out."""
    points: list[tuple[float, float]] = []
    elapsed, last = 0.0, None
    for row in rows:
        if row["event"] == "start":
            last = row
        elif row["event"] == "step" and last is not None:
            elapsed += max(seconds_between(last, row), 0.0)
            last = row
            if row.get("memory_bytes"):
                points.append((elapsed, row["memory_bytes"] / 1e9))
    if not points:
        return None
    points = _thinned(points)
    in_minutes = points[-1][0] > MINUTES
    times = [time / 60 if in_minutes else time for time, _ in points]
    series = Series("Memory", times, [size for _, size in points], variant)
    return _figure([series], "Minutes" if in_minutes else "Seconds", "Memory, GB", unit="GB")


def _curve(name: str, rows: Sequence[Row], value: str, variant: str = "") -> Series:
    points = _thinned(rows)
    return Series(name, [row["step"] for row in points], [row[value] for row in points], variant)


def _thinned(points: Sequence[Any]) -> list[Any]:
    """Evenly spread points, with the last."""
    stride = -(-len(points) // MOST_POINTS)
    return [*points[:-1][::stride], points[-1]] if points else []


def _figure(series: Sequence[Series], x_title: str, y_title: str, unit: str = "") -> go.Figure:
    figure = lines(series, x_title=x_title, y_title=y_title, unit=unit)
    # All is measured here, so that the legend need not say so; and a single point must be seen.
    for trace in figure.data:
        trace.name = trace.name.removesuffix(", measured")
        if len(trace.x) <= 2 and trace.showlegend is False:
            trace.mode = "lines+markers"
        if trace.name == "measured":
            trace.showlegend = False
    return figure.update_layout(height=LOW, showlegend=len(series) > 1)
