"""ZeroGPU without a GPU: the service that lends one, and the app with the package `spaces` itself.

All is the package's own but what needs a CUDA device: the weights that it has put away are brought
back to the CPU, and the process that is lent a GPU computes there. `StandIn` is for where the
package is not installed: it forks and pickles as that does.
"""

from __future__ import annotations

import json
import multiprocessing
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.support.servers import http_server
from tests.support.waiting import PATIENCE


def received(end: Connection) -> Iterator[Any]:
    """What comes through a pipe until it is said to be all; a stream goes on saying the same."""
    deadline = time.monotonic() + PATIENCE
    while True:
        assert end.poll(max(0, deadline - time.monotonic())), "the other process came to no end"
        value = end.recv()
        if isinstance(value, StopIteration):
            return
        yield value


class StandIn:
    """In the place of the module `spaces`: every call in a process of its own, forked from here."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.refusal = refusal
        self.durations: list[float] = []

    def GPU(self, duration: Callable[..., float]) -> Callable[..., Any]:
        context = multiprocessing.get_context("fork")

        def decorator(task: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
            def work(raw: bytes, answers: Any, stop: Any) -> None:
                values = task(*pickle.loads(raw))
                for value in values:
                    if stop.is_set():
                        break
                    answers.send(value)
                values.close()
                answers.send(StopIteration())

            def lent(*asked: Any) -> Iterator[Any]:
                self.durations.append(duration(*asked))
                if self.refusal is not None:
                    raise self.refusal
                (here, there), stop = context.Pipe(duplex=False), context.Event()
                process = context.Process(target=work, args=(pickle.dumps(asked), there, stop))
                process.start()
                try:
                    yield from received(here)
                finally:
                    stop.set()
                    process.join(PATIENCE)
                    process.kill()

            return lent

        return decorator


@dataclass
class Lender:
    """What was asked of the service; with `refusal` it lends nothing: a status and a body."""

    address: str = ""
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    refusal: tuple[int, dict[str, object]] | None = None

    def of(self, path: str) -> list[dict[str, str]]:
        return [query for asked, query in self.asked if asked == path]


@contextmanager
def lender() -> Iterator[Lender]:
    """The service on a Space's machine by which `spaces` asks for GPUs (its `zero/api.py`)."""
    told = Lender()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            url = urlsplit(self.path)
            told.asked.append((url.path, dict(parse_qsl(url.query))))
            status, body = 200, {}
            if url.path == "/schedule":
                again = len(told.of("/schedule")) > 1  # then the process from before is used
                lent = {"nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": "pass"}
                status, body = told.refusal or (200, {"idle": again, **lent})
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http_server(Handler) as told.address:
        yield told


def as_with_cuda() -> None:
    """Before `spaces` is imported: what it and bitsandbytes look for in a PyTorch with CUDA."""
    import bitsandbytes  # noqa: F401  (later it would look for its library for CUDA)
    import torch

    if torch.version.cuda is None:
        torch.version.cuda, torch._C._cuda_init = "13.0", lambda: None
        torch.cuda._is_in_bad_fork = bool


def without_a_device() -> None:
    """Once it is imported: its workers move weights to the CPU, and compute there."""
    import torch
    from spaces.zero import torch as zero_torch
    from spaces.zero.torch import patching

    from qvla.ui import zerogpu

    def brought_back(pack: Any) -> Iterator[tuple[Any, torch.Tensor]]:
        parts = [part for batch in pack.batches for part in batch]
        with open(pack.path(), "rb") as file:
            for tensor, size, padded in [*parts, *pack.big_tensors]:
                raw = torch.frombuffer(bytearray(file.read(padded)), dtype=torch.uint8)[:size]
                yield tensor, raw.view(tensor.dtype).as_strided(tensor.shape, tensor.stride())

    def move(callback: object = None) -> None:
        for pack in patching.tensor_packs:
            for tensor, real in brought_back(pack):
                for fake in pack.fakes[tensor]:
                    fake.data = real
        lineup = zerogpu._Held.lineup
        for name in lineup.names():
            if lineup.shared(name).backbone is not None:
                lineup.shared(name).device = "cpu"
                lineup.shared(name).loaded.device = torch.device("cpu")

    zero_torch.init, zero_torch.move = (lambda uuid: None), move


def main() -> int:
    """`qvla` with these options, on a ZeroGPU of this kind."""
    from qvla.cli.main import main as qvla
    from qvla.ui import zerogpu

    own = zerogpu._decorated

    def decorated() -> object:
        as_with_cuda()
        found = own()
        without_a_device()
        return found

    zerogpu._decorated = decorated
    return qvla(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
