"""What is told of each answer to whoever watches the app: who gave it, how it ended and what it
took. Never a photo, a prompt or the answer itself.
"""

from __future__ import annotations

import logging

from prometheus_client import CollectorRegistry, Counter, Histogram

# Below the level at which a terminal shows messages: `QVLA_LOG=json` asks for it.
log = logging.getLogger("qvla.answers")

ANSWERS = CollectorRegistry()
_answers = Counter(
    "qvla_answers",
    "Captions and answers, by how they ended",
    ["model", "outcome"],
    registry=ANSWERS,
)
_tokens = Counter("qvla_answer_tokens", "Generated tokens", ["model"], registry=ANSWERS)
_seconds = Histogram(
    "qvla_answer_seconds",
    "From the decoded photo to the last token, without the wait for a turn",
    ["model"],
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    registry=ANSWERS,
)


def answered(model: str, outcome: str, tokens: int, seconds: float | None) -> None:
    """Counts one answer. `outcome` is done, stopped, failed or unavailable."""
    _answers.labels(model, outcome).inc()
    _tokens.labels(model).inc(tokens)
    if outcome == "done" and seconds is not None:
        _seconds.labels(model).observe(seconds)
    took = None if seconds is None else round(seconds, 3)
    fields = {"model": model, "outcome": outcome, "tokens": tokens, "seconds": took}
    log.debug("answer", extra={"fields": fields})
