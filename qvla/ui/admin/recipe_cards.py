"""Three ways to begin a fine-tune, as cards over the form: each but the last fills it in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qvla.methods.recipe import Recipe, fields_of
from qvla.methods.registry import KINDS
from qvla.ui.admin.fields import FIELDS, as_text, written

QUICK, REPORT, CUSTOM = "quick", "report", "custom"
OF_REPORT = ("adapter", "qvla")  # the kinds of recipe that the report trained
# What a card leaves as it stands: what is trained, and on what.
KEPT = ("method", "model", "data", "splits", "eval_splits", "sources", "caption_template", "prefix")
QUICK_TEST = {"max_steps": 20, "log_steps": 1, "eval_steps": 10, "eval_photos": 16}
CARDS = (
    ("Quick test: 20 steps, to see that it runs", QUICK),
    ("The report's recipe: one epoch in batches of 4, at 5e-4", REPORT),
    ("Custom: every setting as you say", CUSTOM),
)


def card_values(card: str, method: Any) -> dict[str, Any]:
    """The recipe's values that a card puts into the form, by name; none of the custom one.

    All else is at its default, as the method has it. The report's recipe is of its own methods.
    """
    if card not in (QUICK, REPORT):
        return {}
    kind = method if method in KINDS else Recipe.model_fields["method"].default
    if card == REPORT and kind not in OF_REPORT:
        kind = OF_REPORT[0]
    own = vars(fields_of(KINDS[kind].method))
    usual = {
        field.name: own.get(field.name, Recipe.model_fields[field.name].get_default())
        for field in FIELDS
        if field.name not in KEPT
    }
    return {"method": kind, **usual, **(QUICK_TEST if card == QUICK else {})}


def card_of(values: Mapping[str, Any]) -> str:
    """The card whose values the form has; `values` are as its components show them, by name."""
    shown = {field.name: field for field in FIELDS}
    for card in (QUICK, REPORT):
        wanted = card_values(card, values.get("method"))
        if all(
            as_text(written(shown[name], value)) == as_text(values.get(name))
            for name, value in wanted.items()
        ):
            return card
    return CUSTOM
