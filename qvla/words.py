"""How figures are told in sentences."""

from __future__ import annotations


def counted(number: int, thing: str, things: str = "") -> str:
    """`1 photo`, `2,000 photos`; `things` is for a plural that takes more than an s."""
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"
