"""A crowd: many clients that ask the app for comparisons over HTTP, and one at a time before them.

The app is a process of its own, as `qvla serve` starts it. Each client is a session, as a browser
is one: it joins Gradio's queue for the endpoint `compare` and hears its answer on the session's
stream, again and again, about a photo that was sent once. Who is refused because the queue is full
asks again a moment later. One client alone is timed before and after the crowd, in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
import psutil

from qvla.bench.arrangements import BenchError
from qvla.captioning.contenders import contenders_of, with_weights
from qvla.captioning.options import model_arguments
from qvla.data.examples import read_examples
from qvla.records import store as records
from qvla.settings import Settings, child_environment

AGAIN = 0.5  # seconds after which who was refused asks again
PATIENCE = 600.0  # seconds for the app to be ready, and for one answer
SETTLED = 10.0  # seconds of the crowd after which the app's memory is looked at first
SHARE_ALONE = 0.25  # of the crowd's time, before it and after it
TIMES_AS_MANY, GROWTH = 2.0, 0.05  # what is aimed for


@dataclass
class Told:
    """What clients were told in one phase, and when each answer came."""

    seconds: list[float] = field(default_factory=list)
    refusals: int = 0
    failures: list[str] = field(default_factory=list)
    took: float = 0.0
    processor: float = 0.0  # seconds of the app's

    @property
    def rate(self) -> float:
        return len(self.seconds) / self.took if self.took else 0.0

    def percentile(self, share: int) -> float | None:
        if len(self.seconds) < 2:
            return self.seconds[0] if self.seconds else None
        return quantiles(self.seconds, n=100, method="inclusive")[share - 1]


def run(options: argparse.Namespace, settings: Settings) -> tuple[str, records.Record]:
    """The suite as `qvla bench` runs it. Raises BenchError where the app cannot be started."""
    if min(options.clients, options.seconds, options.new_tokens) < 1:
        raise BenchError("--clients, --seconds and --new-tokens must be at least 1.")
    found = [example.image for example in read_examples(options.data) if example.image.is_file()]
    photos = found[: max(options.photos, 1)]
    if not photos:
        raise BenchError(f"There are no photos in {options.data}.")
    with tempfile.TemporaryDirectory(prefix="qvla-bench-") as home, _app(settings, home) as app:
        phases, held = asyncio.run(_phases(app, photos, options))
    record = _record(options, settings, photos, phases, held)
    return table(record), record


@dataclass(frozen=True)
class App:
    address: str
    process: subprocess.Popen[bytes]

    def processor_seconds(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def held_bytes(self) -> int:
        return psutil.Process(self.process.pid).memory_info().rss


@contextmanager
def _app(settings: Settings, home: str) -> Iterator[App]:
    """The app, ready to answer, until the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = child_environment(QVLA_HOME=home, QVLA_WORKER="off")
    command = [sys.executable, "-m", "qvla", "serve", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [*command, *model_arguments(settings)], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        app = App(f"http://127.0.0.1:{port}", process)
        _wait_for(app)
        yield app
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _wait_for(app: App) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if app.process.poll() is not None:
            raise BenchError("The app ended at once: see above, or start it with `qvla serve`.")
        try:
            if httpx.get(f"{app.address}/health", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(AGAIN)
    raise BenchError(f"The app was not ready within {PATIENCE:.0f} seconds.")


async def _phases(
    app: App, photos: Sequence[Path], options: argparse.Namespace
) -> tuple[dict[str, Told], dict[str, int]]:
    """One client, all of them, and one again; and the app's memory in bytes."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    held: dict[str, int] = {}
    async with httpx.AsyncClient(
        base_url=f"{app.address}/gradio_api", timeout=PATIENCE, trust_env=False, limits=limits
    ) as http:
        function = await _function(http, app)
        files = [await _sent(http, photo) for photo in photos]
        crowd = [
            Client(http, function, files[number % len(files)], options.new_tokens)
            for number in range(options.clients)
        ]

        async def phase(clients: int, seconds: float) -> Told:
            told, begin, used = Told(), time.monotonic(), app.processor_seconds()
            await asyncio.gather(*(one.ask(begin + seconds, told) for one in crowd[:clients]))
            told.took = time.monotonic() - begin
            told.processor = app.processor_seconds() - used
            return told

        async def look() -> None:
            await asyncio.sleep(min(SETTLED, options.seconds / 2))
            held["settled_bytes"] = app.held_bytes()

        alone = max(SHARE_ALONE * options.seconds, 1.0)
        await phase(1, 1.0)  # to warm up
        before = await phase(1, alone)
        looked = asyncio.create_task(look())
        together = await phase(options.clients, options.seconds)
        await looked
        held["last_bytes"] = app.held_bytes()
        after = await phase(1, alone)
    return {"before": before, "together": together, "after": after}, held


async def _sent(http: httpx.AsyncClient, photo: Path) -> dict[str, Any]:
    """The photo at the app, as its endpoints take it."""
    answer = await http.post("/upload", files={"files": (photo.name, photo.read_bytes())})
    answer.raise_for_status()
    return {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}


async def _function(http: httpx.AsyncClient, app: App) -> int:
    """The number by which a page calls the endpoint `compare`."""
    config = (await http.get(f"{app.address}/config")).raise_for_status().json()
    return next(one["id"] for one in config["dependencies"] if one["api_name"] == "compare")


class Client:
    """A session that asks about one photo."""

    def __init__(
        self, http: httpx.AsyncClient, function: int, photo: Mapping[str, Any], tokens: int
    ) -> None:
        self._http, self._session = http, secrets.token_hex(8)
        self._asked = {
            "data": [photo, "", tokens, 1, 0, 1, "", ""],
            "fn_index": function,
            "session_hash": self._session,
        }

    async def ask(self, end: float, told: Told) -> None:
        """Asks until the time is over; an answer under way by then still counts."""
        while time.monotonic() < end:
            begin = time.monotonic()
            try:
                joined = await self._http.post("/queue/join", json=self._asked)
                if joined.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                    told.refusals += 1
                    await asyncio.sleep(AGAIN)
                    continue
                joined.raise_for_status()
                fault = await self._fault()
            except httpx.HTTPError as error:
                fault = f"{type(error).__name__}: {error}"
            if fault is None:
                told.seconds.append(time.monotonic() - begin)
            else:
                told.failures.append(fault)

    async def _fault(self) -> str | None:
        """Waits for the answer on the session's stream, which Gradio closes after it; what is wrong
        with it, if anything is.
        """
        fault: str | None = "The answer broke off."
        stream = {"session_hash": self._session}
        async with self._http.stream("GET", "/queue/data", params=stream) as lines:
            lines.raise_for_status()
            async for line in lines.aiter_lines():
                if not line.startswith("data: "):
                    continue
                message = json.loads(line.removeprefix("data: "))
                if message["msg"] == "process_completed":
                    fault = _fault_in(message)
                elif message["msg"] == "unexpected_error":
                    return str(message["message"])
        return fault


def _fault_in(message: Mapping[str, Any]) -> str | None:
    if not message["success"]:
        return json.dumps(message["output"])
    panes = message["output"]["data"][0]
    states = {pane["state"] for pane in panes.values()}
    return None if "done" in states and "failed" not in states else json.dumps(panes)


def _record(
    options: argparse.Namespace,
    settings: Settings,
    photos: Sequence[Path],
    phases: Mapping[str, Told],
    held: Mapping[str, int],
) -> records.Record:
    together, alone = phases["together"], [phases["before"], phases["after"]]
    numbers: dict[str, int | float | None] = dict(held)
    for name, told in phases.items():
        numbers |= {
            f"{name}/answers": len(told.seconds),
            f"{name}/refusals": told.refusals,
            f"{name}/failures": len(told.failures),
            f"{name}/p50_seconds": told.percentile(50),
            f"{name}/p95_seconds": told.percentile(95),
            f"{name}/answers_per_second": told.rate,
            f"{name}/processor_seconds": told.processor / max(len(told.seconds), 1),
        }
    rate = sum(len(told.seconds) for told in alone) / sum(told.took for told in alone)
    numbers["alone_answers_per_second"] = rate
    numbers["together_to_alone_ratio"] = together.rate / rate if rate else None
    numbers["growth_ratio"] = held["last_bytes"] / held["settled_bytes"] - 1
    return records.new_record(
        "bench/load",
        model=settings.model_name,
        variants=with_weights(contenders_of(settings)),
        data=records.Data(
            name=Path(options.data).name, items=len(photos), fingerprint=records.fingerprint(photos)
        ),
        numbers=numbers,
        protocol={
            "clients": options.clients,
            "seconds": options.seconds,
            "new_tokens": options.new_tokens,
            "queue_size": settings.queue_size,
            "concurrency": settings.concurrency,
            "order": "one client, all clients, one client; the app a process of its own",
            "processor_seconds": "of the app an answer; what else runs on the machine is not in it",
            "settled": f"resident memory after {min(SETTLED, options.seconds / 2):g} seconds",
            "first_failures": together.failures[:3],
            "device": settings.device,
            "precision": settings.precision,
        },
    )


def table(record: records.Record) -> str:
    """The figures with their aims, one a line."""
    numbers, protocol = record.numbers, record.protocol
    machine = ", ".join(record.hardware.accelerators) or record.hardware.processor

    def milliseconds(name: str) -> str:
        value = numbers[name]
        return "–" if value is None else f"{1000 * value:.0f} ms"

    lines = [
        f"{record.model} on {protocol['device']} ({machine}): {protocol['clients']} clients for "
        f"{protocol['seconds']:g} s, up to {protocol['new_tokens']} tokens a caption",
        "",
    ]
    for name, called in (("before", "alone"), ("together", "together"), ("after", "alone again")):
        lines.append(
            f"{called:<12} {numbers[f'{name}/answers']:>6} answers, "
            f"{numbers[f'{name}/refusals']} refused, {numbers[f'{name}/failures']} failed, "
            f"{numbers[f'{name}/answers_per_second']:.2f} a second, "
            f"{milliseconds(f'{name}/processor_seconds')} of processors each, "
            f"p50 {milliseconds(f'{name}/p50_seconds')}, p95 {milliseconds(f'{name}/p95_seconds')}"
        )
    ratio = numbers["together_to_alone_ratio"]
    lines += [
        "together against alone: "
        + ("–" if ratio is None else f"{ratio:.2f} times as many a second")
        + f" (aim: {TIMES_AS_MANY:g})",
        f"memory: {record.number('settled_bytes') / 1e6:.0f} MB, at the end "
        f"{record.number('last_bytes') / 1e6:.0f} MB, {record.number('growth_ratio'):+.1%} "
        f"(aim: within {GROWTH:.0%})",
    ]
    return "\n".join(lines)
