"""How long a visitor waits: from opening the page to the first caption, by the browser's own clock.

The app is started as a process of its own, and opened twice: as soon as it answers, while its
weights are still loading, and once they are there. In the page the first example is picked as soon
as it can be, which asks for its captions. Needs Playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING, Any

from qvla.bench.arrangements import BenchError, made_explicit
from qvla.records import store as records
from qvla.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

AIM_SECONDS = 5
PATIENCE = 300  # seconds, for what should take a few
CASES = {"starting": "opened while the weights load", "ready": "opened when they are there"}
MOMENTS = {
    "painted": "something is painted",
    "picked": "an example can be picked",
    "word": "the first word of a caption",
    "caption": "the first whole caption",
}
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
# Presses the first example until it is pressed, and notes when, in ms since the page was asked for.
# Captions on record have no figures: a digit in the first one tells that the model was asked.
WATCH = """
window.moments = {};
const note = (name) => { window.moments[name] ??= performance.now(); };
const timer = setInterval(() => {
  const tile = document.querySelector("#examples .tile");
  if (tile && !window.moments.picked) {
    tile.click();
    if (tile.getAttribute("aria-pressed") === "true") note("picked");
  }
  if (!window.moments.picked) return;
  for (const pane of document.querySelectorAll(".pane")) {
    if (!/\\d/.test(pane.querySelector(".figures dd").textContent)) continue;
    note("word");
    if (pane.dataset.state === "done") note("caption");
  }
  if (window.moments.caption) clearInterval(timer);
}, 10);
"""


def run(options: argparse.Namespace, settings: Settings) -> tuple[str, records.Record]:
    """The suite as `qvla bench` runs it. Raises BenchError without a browser, or where the app
    does not start.
    """
    if options.repeats < 1:
        raise BenchError("--repeats must be at least 1.")
    settings = made_explicit(settings)
    times: dict[str, list[float]] = {}
    with _browser() as browser:
        for _ in range(options.repeats):
            for name, seconds in _visits(browser, settings).items():
                times.setdefault(name, []).append(seconds)
        version = browser.version
    numbers: dict[str, int | float | None] = {"aim_seconds": AIM_SECONDS}
    for name, values in times.items():
        numbers[f"{name}_seconds"] = median(values)
        numbers[f"{name}_seconds/lowest"] = min(values)
        numbers[f"{name}_seconds/highest"] = max(values)
    record = records.new_record(
        "bench page",
        model=settings.model_name,
        variants=("base", "adapter", "qvla"),
        data=None,
        numbers=numbers,
        protocol={
            "repeats": options.repeats,
            "device": settings.device,
            "precision": settings.precision,
            "browser": f"Chromium {version}",
            "window": [1280, 900],
        },
    )
    return table(record), record


def table(record: records.Record) -> str:
    """A line a moment, with both cases side by side."""
    lines = [
        f"{record.model} on {record.protocol['device']}, {record.protocol['browser']}; medians of "
        f"{record.protocol['repeats']}, in seconds since the page was asked for",
        f"the app answers {record.number('answers_seconds'):.2f} s after it was started",
        "",
        f"{'':34}" + "".join(f"{words:>34}" for words in CASES.values()),
    ]
    for moment, words in MOMENTS.items():
        values = (record.number(f"{case}/{moment}_seconds") for case in CASES)
        lines.append(f"{words:34}" + "".join(f"{value:34.2f}" for value in values))
    return "\n".join([*lines, f"aim: the first whole caption within {AIM_SECONDS} s"])


def _visits(browser: Browser, settings: Settings) -> dict[str, float]:
    with _app(settings) as (address, answers):
        times = {"answers": answers}
        for case in CASES:  # the second when the first has its caption, so its weights
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            page.set_default_timeout(1000 * PATIENCE)
            page.add_init_script(WATCH)
            page.goto(address)
            page.wait_for_function("window.moments.caption")
            moments: dict[str, float] = page.evaluate(
                "({painted: performance.getEntriesByName('first-contentful-paint')[0].startTime,"
                " ...window.moments})"
            )
            times |= {f"{case}/{name}": moments[name] / 1000 for name in MOMENTS}
            page.context.close()
    return times


@contextmanager
def _browser() -> Iterator[Browser]:
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise BenchError("The suite page needs Playwright: pip install playwright.") from error
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise BenchError("The suite page needs Chromium: install it, say by its Debian package.")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        except Error as error:
            raise BenchError(f"{path} does not start here: try it by hand.") from error
        yield browser
        browser.close()


@contextmanager
def _app(settings: Settings) -> Iterator[tuple[str, float]]:
    """The app with these weights and nothing of the owner's; its address, and the seconds until it
    answered.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="qvla-bench-page-") as home:
        begin = time.perf_counter()
        app = subprocess.Popen(
            [sys.executable, "-m", "qvla", "serve", "--host", "127.0.0.1", "--port", str(port)],
            env={**os.environ, **_environment(settings), "QVLA_HOME": home},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not _answers(port):
                if app.poll() is not None or time.perf_counter() - begin > PATIENCE:
                    raise BenchError("The app did not start: try `python -m qvla serve`.")
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port}", time.perf_counter() - begin
        finally:
            app.terminate()
            app.wait()


def _answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _environment(settings: Settings) -> Mapping[str, str]:
    values: dict[str, Any] = {
        "QVLA_MODEL": settings.model,
        "QVLA_ADAPTER": settings.adapter,
        "QVLA_NF4_ADAPTER": settings.nf4_adapter,
        "QVLA_DEVICE": settings.device,
        "QVLA_PRECISION": settings.precision,
    }
    return {name: str(value) for name, value in values.items() if value is not None}
