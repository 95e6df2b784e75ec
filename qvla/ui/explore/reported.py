"""What a page on adapters for LLaVA reports, marked so, and its counts counted again."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from qvla.planning.claims import Claim
from qvla.records.reported import reported_adapters
from qvla.ui.measured.tab import notes_html
from qvla.ui.tables import Cell, render_table

RESULTS = {
    "parameters": "Parameters",
    "vqav2": "VQAv2",
    "gqa": "GQA",
    "textvqa": "TextVQA",
    "memory_gb": "Memory, GB",
    "hours": "Hours",
}
PLACEMENTS = {
    "vision": "Vision",
    "language": "Language",
    "performance_percent": "Performance, %",
    "parameters_percent": "Parameters, %",
}


def render_reported() -> str:
    """Both tables and the notes; none of it was measured here."""
    told = reported_adapters()
    tables = [
        render_table(
            (first, *columns.values()),
            [
                (one[key], [Cell(str(one[name]), "reported") for name in columns])
                for one in told[kind]
            ],
            caption=caption,
        )
        for kind, key, first, columns, caption in (
            ("results", "method", "Method", RESULTS, "Results on LLaVA, reported"),
            ("placements", "strategy", "Placement", PLACEMENTS, "Placements, reported"),
        )
    ]
    lead = f'<p class="lead">By {escape(told["source"])}.</p>'
    return lead + "".join(tables) + notes_html(*told["notes"])


def render_claims(claims: Sequence[Claim]) -> str:
    """Each reported count beside ours, and in words by how much it differs."""
    rows = [
        (one.what, [Cell(one.said, "reported"), Cell(f"{one.counted:,}"), Cell(verdict(one))])
        for one in claims
    ]
    return render_table(
        ("Figure", "Said", "Counted here", "Difference"),
        rows,
        caption="Reported counts, counted again",
    )


def verdict(claim: Claim) -> str:
    """By how much a reported count differs from ours."""
    if claim.agrees:
        return "none, in its digits"
    more = "more" if claim.difference > 0 else "less"
    times = max(claim.value, claim.counted) / min(claim.value, claim.counted)
    size = f"{times:.3g} times" if times >= 1.1 else f"{100 * (times - 1):.2g} %"
    return f"{abs(claim.difference):,} {more} than counted ({size})"
