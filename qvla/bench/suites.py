"""What can be measured: the suites of `qvla bench` by name.

Absolute times say as much about the machine as about the code. So where two ways of doing the same
work are compared, both are taken in turns in one run, and the figure is their ratio.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Suite:
    """A suite's `module` offers `run(options, settings) -> (text, Record)`."""

    summary: str
    module: str


SUITES = {
    "core": Suite("the three panes against one, and batches", "qvla.bench.core"),
    "memory": Suite("bytes by part, and peaks", "qvla.bench.memory_suite"),
    "engine": Suite("the engine against Transformers' own loop", "qvla.bench.engine"),
    "latency": Suite("time to first token, per token, throughput", "qvla.bench.latency"),
    "training": Suite("images a second and peak of a fine-tune", "qvla.bench.training"),
    "methods": Suite("an adapter of each method against the base", "qvla.bench.methods_suite"),
    "report": Suite("the report's tables, reported and measured", "qvla.bench.report"),
    "page": Suite("from opening the page to the first caption", "qvla.bench.page"),
    "load": Suite("a crowd of clients against the app", "qvla.bench.load"),
    "cpu": Suite("evaluation and scoring against plain loops", "qvla.bench.cpu"),
}
