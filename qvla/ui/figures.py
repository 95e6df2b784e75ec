"""Plotly figures in the page's own look, readable on a telephone and on light and dark paper.

Text and lines take their colours from the style sheet, so that they change with the page. The
colours of data cannot, hence each has a contrast of at least 3 to both papers. What is reported is
told from what is measured by hatching or dashes, and in the words of the legend.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import floor, isfinite, log10
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from qvla.ui.contenders import places_of
from qvla.ui.theme import SANS

if TYPE_CHECKING:
    import plotly.graph_objects as go

VARIANT_COLOURS = {"base": "#4f86bb", "adapter": "#b67b22", "qvla": "#1f9a70"}
FURTHER_COLOURS = ("#5f86a8", "#a5757f", "#7d8f3f", "#3f9490", "#a97c50", "#8479a8")
SYMBOLS = ("circle", "square", "diamond", "cross")  # of points whose colours begin anew
KINDS = ("reported", "corrected", "planned", "measured")
PATTERNS = {"reported": "/", "corrected": "x", "planned": "."}
DASHES = {"reported": "dash", "corrected": "dot", "planned": "longdash"}
NEUTRAL = "#7c8580"  # of text and lines where the style sheet does not reach
HEIGHT = 340  # pixels
TICK_LETTERS = 12  # of a bar's label in a line
FEW_POINTS = 24  # up to so many, a curve's points are marked
WIDE = 40  # values this many times apart need a logarithmic axis


@dataclass(frozen=True)
class Series:
    """The values `y` at the places `x`, with `low` and `high` as the ends of a range where known.

    `kind` is one of KINDS; the legend and the box over the figure say it in words. Without a
    `colour` it is that of the variant, or else the next of the further ones.
    """

    name: str
    x: Sequence[Any]
    y: Sequence[float | None]
    variant: str = ""
    kind: str = "measured"
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    colour: str = ""


def colours(names: Iterable[str]) -> dict[str, str]:
    """The colour of each contender: the same in all figures that are of the same contenders."""
    others = {name: FURTHER_COLOURS[place] for name, place in places_of(names).items()}
    return {**VARIANT_COLOURS, **others}


def bars(
    series: Sequence[Series],
    *,
    y_title: str,
    unit: str = "",
    stacked: bool = False,
    logarithmic: bool = False,
) -> go.Figure:
    """Bars side by side at each place, or on top of each other."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for place, (one, colour) in enumerate(_coloured(series)):
        figure.add_bar(
            name=_name(one),
            x=list(one.x),
            y=list(one.y),
            error_y=_range(one),
            marker=_fill(one.kind, colour),
            hovertemplate=_hover(unit),
            showlegend=False,
            offsetgroup="all" if stacked else str(place),
        )
    first = series[0].x[:1] if series else []
    shared = "all" if stacked else "0"  # the legend's own bars must not take a place beside others
    for name, kind, colour in _legend(series):
        figure.add_bar(
            name=name,
            x=list(first),
            y=[None],
            marker=_fill(kind, colour),
            offsetgroup=shared,
            hoverinfo="skip",
        )
    _lay_out(figure, y_title=y_title, series=series, logarithmic=logarithmic)
    figure.update_layout(barmode="stack" if stacked else "group", bargap=0.28, bargroupgap=0.08)
    places = list(dict.fromkeys(place for one in series for place in one.x))
    figure.update_xaxes(
        type="category",
        tickvals=places,
        ticktext=["<br>".join(wrap(str(place), TICK_LETTERS)) for place in places],
        tickangle=0,
    )
    return figure


def lines(
    series: Sequence[Series],
    *,
    x_title: str,
    y_title: str,
    unit: str = "",
    logarithmic: bool = False,
) -> go.Figure:
    """Curves; texts as `x` are places of their own, evenly spaced."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for one, colour in _coloured(series):
        figure.add_scatter(
            name=_name(one),
            x=list(one.x),
            y=list(one.y),
            error_y=_range(one),
            mode="lines+markers" if _has_few_points(one) else "lines",
            line=_stroke(one.kind, colour),
            marker={"size": 8},
            hovertemplate=_hover(unit),
            showlegend=False,
        )
    for name, kind, colour in _legend(series):
        figure.add_scatter(
            name=name,
            x=list(series[0].x[:1]),
            y=[None],
            mode="lines",
            line=_stroke(kind, colour),
            hoverinfo="skip",
        )
    _lay_out(figure, y_title=y_title, series=series, logarithmic=logarithmic, x_title=x_title)
    words = any(isinstance(place, str) for one in series for place in one.x)
    figure.update_xaxes(
        title={"text": x_title, "font": {"size": 13}},
        type="category" if words else "linear",
        nticks=6,
        hoverformat=".3~g",
    )
    return figure


def points(
    series: Sequence[Series], joined: Sequence[Series], *, x_title: str, y_title: str
) -> go.Figure:
    """Points with their ranges over costs, whose axis is logarithmic, and curves across them."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for place, (one, colour) in enumerate(_coloured(series)):
        symbol = SYMBOLS[place // len(FURTHER_COLOURS) % len(SYMBOLS)]
        figure.add_scatter(
            name=one.name,
            x=list(one.x),
            y=list(one.y),
            error_y=_range(one),
            mode="markers",
            marker={"size": 10, "color": colour, "symbol": symbol},
            hovertemplate=_hover(""),
        )
    for one in joined:
        figure.add_scatter(
            name=one.name,
            x=list(one.x),
            y=list(one.y),
            mode="lines",
            line=_stroke(one.kind, NEUTRAL),
            hoverinfo="skip",
        )
    _lay_out(figure, y_title=y_title, series=[*series, *joined], logarithmic=False, x_title=x_title)
    title = {"text": x_title, "font": {"size": 13}}
    figure.update_xaxes(title=title, type="log", nticks=6, exponentformat="SI", hoverformat=".4~s")
    return figure


def far_apart(series: Sequence[Series]) -> bool:
    """Whether the values differ so much that the smallest would vanish on an even scale."""
    values = [value for one in series for value in one.y if value]
    return bool(values) and max(values) > WIDE * min(values) > 0


def _coloured(series: Sequence[Series]) -> list[tuple[Series, str]]:
    others = [one.name for one in series if not (one.colour or one.variant in VARIANT_COLOURS)]
    places = {name: place for place, name in enumerate(dict.fromkeys(others))}
    return [
        (
            one,
            one.colour
            or VARIANT_COLOURS.get(one.variant)
            or FURTHER_COLOURS[places[one.name] % len(FURTHER_COLOURS)],
        )
        for one in series
    ]


def _has_few_points(series: Series) -> bool:
    """Few enough to mark them; a level that was told is a line without points."""
    return series.kind == "measured" and len(series.x) <= FEW_POINTS


def _legend(series: Sequence[Series]) -> list[tuple[str, str, str]]:
    """Name, kind and colour of the legend's entries: first the names, then the kinds in words.

    Names by kinds would be too many for a telephone.
    """
    names = {one.name: colour for one, colour in _coloured(series)}
    kinds = dict.fromkeys(one.kind for one in series)
    return [
        *((name, "measured", colour) for name, colour in names.items()),
        *((kind, kind, NEUTRAL) for kind in sorted(kinds, key=KINDS.index)),
    ]


def _fill(kind: str, colour: str) -> dict[str, Any]:
    told = kind in PATTERNS
    return {
        "color": "rgba(0,0,0,0)" if told else colour,
        "line": {"color": colour, "width": 1.5 if told else 0},
        "pattern": {
            "shape": PATTERNS.get(kind, ""),
            "fgcolor": colour,
            "bgcolor": "rgba(0,0,0,0)",
            "size": 6,
            "solidity": 0.28,
            "fillmode": "replace",
        },
    }


def _stroke(kind: str, colour: str) -> dict[str, Any]:
    return {"color": colour, "width": 2, "dash": DASHES.get(kind, "solid")}


def _name(series: Series) -> str:
    return series.name if series.kind in series.name else f"{series.name}, {series.kind}"


def _range(series: Series) -> dict[str, Any] | None:
    ends = [*(series.low or ()), *(series.high or ())]
    if all(end is None for end in ends):
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": _distances(series.y, series.high or ()),
        "arrayminus": _distances(series.y, series.low or ()),
        "color": NEUTRAL,
        "thickness": 2,
        "width": 0,
    }


def _distances(values: Sequence[float | None], ends: Sequence[float | None]) -> list[float | None]:
    pairs = zip_longest(values, ends)
    return [None if None in (value, end) else abs(end - value) for value, end in pairs]


def _hover(unit: str) -> str:
    """A line of the common box; Plotly puts the series' name before it."""
    return f"%{{y:.4~g}}{' ' + unit if unit else ''}"


def in_words(series: Sequence[Series], *, y_title: str, x_title: str = "") -> str:
    """A figure's name and numbers as text, for who cannot see it (`page.js` puts it there).

    Of a curve of many points it has the ends, the lowest and the highest.
    """
    told = " ".join(f"{_name(one)}: {_points(one)}." for one in series)
    by = f" by {x_title.lower()}" if x_title else ""
    return f"{y_title}{by}. {told}".strip()


def _points(series: Series) -> str:
    points = [(x, y) for x, y in zip(series.x, series.y, strict=False) if y is not None]
    if not points:
        return "nothing"
    if len(points) > FEW_POINTS:
        values = [y for _, y in points]
        (first, begin), (last, end) = points[0], points[-1]
        return (
            f"from {begin:.4g} at {_at(first)} to {end:.4g} at {_at(last)}, "
            f"lowest {min(values):.4g}, highest {max(values):.4g}"
        )
    return ", ".join(f"{_at(x)} {y:.4g}" for x, y in points)


def _at(place: Any) -> str:
    return place if isinstance(place, str) else f"{place:.4g}"


def _lay_out(
    figure: go.Figure,
    *,
    y_title: str,
    series: Sequence[Series],
    logarithmic: bool,
    x_title: str = "",
) -> None:
    figure.update_layout(
        template=None,
        meta={"words": in_words(series, y_title=y_title, x_title=x_title)},
        height=HEIGHT,
        font={"family": ", ".join(SANS), "size": 13, "color": NEUTRAL},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        showlegend=True,
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "itemclick": False,
            "itemdoubleclick": False,
            "traceorder": "normal",
        },
        hovermode="x unified",
        dragmode=False,
    )
    figure.update_xaxes(automargin=True, fixedrange=True, zeroline=False, showgrid=False)
    figure.update_yaxes(
        title={"text": y_title, "font": {"size": 13}},
        automargin=True,
        fixedrange=True,
        gridcolor="rgba(124,133,128,0.3)",
        zerolinecolor="rgba(124,133,128,0.6)",
        nticks=6,
        rangemode="tozero",
    )
    values = [value for one in series for value in one.y if value and isfinite(value)]
    if logarithmic and values and min(values) > 0:
        # bars need a foot, which a logarithmic axis does not have: half a step below the smallest
        foot = floor(log10(min(values)) * 2 - 0.5) / 2
        figure.update_yaxes(type="log", range=[foot, log10(max(values)) + 0.15], dtick=1)
