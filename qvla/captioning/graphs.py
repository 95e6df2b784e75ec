"""CUDA graphs of decoding steps: recorded once a shape, believed once they were seen to be right.

A step of a 3B decoder is some 500 kernels, whose launches from Python take ten times as long as
the work. A graph launches them at once. It is only as right as what it recorded: so the first steps
of each shape are made both ways, and where they say different tokens, or a step cannot be recorded
(as LLM.int8's, which looks at its numbers to decide what to do), tokens are made step by step.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel

from qvla.captioning.fixed import Fixed, Record, Work
from qvla.captioning.growing import Growing, Held, State
from qvla.faults import is_out_of_memory
from qvla.methods.rows import RowTuner
from qvla.settings import on_zerogpu

STEPS = 8  # of each shape that are made both ways
WARM_UPS = 3  # before recording, as PyTorch asks: libraries make their workspaces then
TIE = 4  # rounding errors of the largest score, within which two tokens are equally likely

log = logging.getLogger(__name__)
_RECORDING = threading.Lock()  # PyTorch records in one stream of the process


def recorder_of(device: torch.device) -> Record | None:
    """What records steps on a device; None where nothing is gained by it.

    On ZeroGPU a process ends with its answer, and the next would have to record all anew.
    """
    return cuda_graph if device.type == "cuda" and not on_zerogpu() else None


def cuda_graph(work: Work) -> Work:
    """Records work as a CUDA graph; what it gives replays it, and its result is overwritten then.

    The work is done a few times here, and must not mind.
    """
    with _RECORDING:
        current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                work()
        current.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other backbones' threads go on allocating meanwhile, which is no fault of this one's.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = work()

    def again() -> torch.Tensor:
        graph.replay()
        return result

    return again


class Standing:
    """What of a module tree outlives its rows: recorded steps, and whether they can be used."""

    def __init__(self, model: Any, record: Record) -> None:
        self.fixed = Fixed(model, record)
        self.fault = ""  # why steps are not replayed

    def give_up(self, reason: str) -> None:
        self.fault = reason
        log.warning("Steps are not replayed as CUDA graphs: %s", reason)


class Proved:
    """Rows whose steps are replayed, once those of their shape were right; see `growing.Held`."""

    def __init__(self, model: Any, standing: Standing) -> None:
        self._model = model
        self._standing = standing
        self._fixed = standing.fixed
        # Rows as they would be without recording; None while nobody needs to know.
        self._growing = Growing(model) if standing.fault else None

    def add(self, new: State) -> None:
        if not self._standing.fault:
            try:
                self._fixed.add(new)
            except Exception as error:
                self._give_up(error)
        if self._growing is not None:
            self._growing.add(new)

    def step(self) -> torch.Tensor:
        if not self._standing.fault and self._fixed.frame.proved >= STEPS:
            self._growing = None
            return self._fixed.step()
        if self._growing is None:
            self._growing = Growing(self._model, self._fixed.state())
        expected = self._growing.step()
        if not self._standing.fault:
            try:
                scores = self._fixed.step()
            except Exception as error:
                self._give_up(error)
            else:
                self._compare(scores, expected)
        return expected

    def say(self, tokens: torch.Tensor) -> None:
        for held in self._both():
            held.say(tokens)

    def keep(self, places: Sequence[int]) -> None:
        for held in self._both():
            held.keep(places)

    def _both(self) -> list[Fixed | Growing]:
        fixed = [] if self._standing.fault else [self._fixed]
        return [*fixed, *([] if self._growing is None else [self._growing])]

    def _compare(self, scores: torch.Tensor, expected: torch.Tensor) -> None:
        """Both (B, V): the token that one chooses must be the other's, or tie with it."""
        frame = self._fixed.frame
        best = expected.amax(-1)
        chosen = expected.gather(1, scores.argmax(-1, keepdim=True))[:, 0]
        rounding = torch.finfo(frame.layers[0][0].dtype).eps * expected.abs().amax(-1)
        if bool((best - chosen <= TIE * rounding).all()) and bool(scores.isfinite().all()):
            frame.proved += 1
            return
        self._standing.give_up(
            f"recorded for {frame.shape.rows} rows of {frame.shape.length} tokens, "
            "they said other tokens than those that were not recorded"
        )

    def _give_up(self, error: Exception) -> None:
        """Goes on without recording, with the rows that there were."""
        if is_out_of_memory(error):
            raise error
        log.debug("a step could not be recorded", exc_info=error)
        if self._growing is None:
            state = self._fixed.state() if self._fixed.has_rows else None
            self._growing = Growing(self._model, state)
        self._standing.give_up(f"{type(error).__name__}: {str(error).splitlines()[0]}")
        gc.collect()  # what was begun to be recorded


class Graphs:
    """What has been recorded of one backbone's module trees."""

    def __init__(self, wanted: bool = True) -> None:
        self._wanted = wanted
        self._standing: dict[tuple[int, str | None], Standing] = {}

    def held(self, model: Any, device: torch.device, name: str | None) -> Held | None:
        """Where the rows of a module tree are kept, or those of one adapter of it; None where
        nothing is to be recorded.
        """
        record = recorder_of(device)
        if record is None or not self._wanted:
            return None
        key = (id(model), name)
        if key not in self._standing:
            self._standing[key] = Standing(model, record)
        return Proved(model, self._standing[key])

    def part_adapters(self, model: Any, device: torch.device) -> bool:
        """Whether the adapters of a tree must not be rows of one batch: PEFT's own tuners sort rows
        by lists of the host's, which no record can follow.
        """
        tuner = getattr(model, "base_model", None)
        recorded = self._wanted and recorder_of(device) is not None
        return recorded and isinstance(model, PeftModel) and not isinstance(tuner, RowTuner)

    def rest(self) -> None:
        """Nobody is answered for now."""
        for one in self._standing.values():
            one.fixed.clear()

    def forget(self) -> None:
        """Weights have come or gone that steps were recorded with."""
        self._standing.clear()

    @property
    def faults(self) -> list[str]:
        """Why steps are not replayed, of each module tree where they are not."""
        return [one.fault for one in self._standing.values() if one.fault]

    @property
    def state(self) -> str:
        """What became of recording, as records say it."""
        if self.faults:
            return "not replayed: " + "; ".join(self.faults)
        return "replayed" if self._standing else "not recorded"
