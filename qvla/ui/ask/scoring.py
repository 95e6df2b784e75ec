"""The panes' answers scored against the right ones, one question at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qvla.errors import QvlaError
from qvla.ui.compare.comparison import Panes, shared
from qvla.ui.panes import Pane, PaneState


def score_answers(panes: Sequence[Pane], references: Sequence[str]) -> Panes:
    """Panes with exact match, token F1 and CSNS of what they answered, as `qvla.scoring.answers`
    has them, and the shared words marked. Without the package of the sentence embeddings there is
    no CSNS.
    """
    bare = [
        replace(
            pane,
            exact_match=None,
            f1=None,
            csns=None,
            scoring_fault="",
            words=shared(pane.text, references),
        )
        for pane in panes
    ]
    if not references:
        return tuple(bare)
    from qvla.scoring.answers.words import exact_match, token_f1

    said = [place for place, pane in enumerate(bare) if pane.text and pane.state is PaneState.DONE]
    similar, fault = _csns([bare[place].text for place in said], references)
    for place, csns in zip(said, similar, strict=True):
        pane = bare[place]
        bare[place] = replace(
            pane,
            exact_match=exact_match(pane.text, references),
            f1=token_f1(pane.text, references),
            csns=csns,
            scoring_fault=fault,
        )
    return tuple(bare)


def _csns(answers: Sequence[str], references: Sequence[str]) -> tuple[list[float | None], str]:
    """CSNS of each answer, or None and why, where the embeddings cannot be had."""
    if not answers:
        return [], ""
    from qvla.scoring.answers.semantic import csns

    try:
        return csns(answers, [references] * len(answers)).tolist(), ""
    except ImportError:
        return [None] * len(answers), ""
    except QvlaError as error:
        return [None] * len(answers), str(error)
