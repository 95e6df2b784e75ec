"""Measured quantities in words: seconds, bytes, rates. A dash stands for what is not known yet."""

from __future__ import annotations

UNKNOWN = "–"


def seconds(value: float | None) -> str:
    """Milliseconds below one second, else seconds."""
    if value is None:
        return UNKNOWN
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def size(count: int | None) -> str:
    """Bytes in decimal units, as disk and GPU makers count them."""
    if not count:
        return UNKNOWN
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            value = count / scale
            return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"
    return f"{count} B"


def rate(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def score(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"
