"""`/metrics`: the app's state and what it has answered, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fastapi import Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

from qvla.ui.answered import ANSWERS
from qvla.ui.health import Health
from qvla.ui.queue_state import QueueState, queue_state


@dataclass(frozen=True)
class _Now(Collector):
    """The state at one look."""

    health: Health
    queue: QueueState

    def collect(self) -> Iterator[GaugeMetricFamily]:
        told = self.health.report()
        for name, what, value in (
            ("ready", "1 when the app can answer", told["ready"]),
            ("queue_waiting", "Requests that wait for a turn", self.queue.waiting),
            ("queue_running", "Requests that have their turn", self.queue.running),
            ("queue_limit", "Requests that may wait", self.queue.most or 0),
            ("disk_free_bytes", "Room for what is made here", told["disk"]["free_bytes"]),
            ("worker_up", "1 when the app's worker of jobs runs", told["worker"] == "running"),
        ):
            yield GaugeMetricFamily(f"qvla_{name}", what, value=float(value))
        models = GaugeMetricFamily("qvla_model_available", "1 when it can answer", labels=["model"])
        for name, able in told["models"].items():
            models.add_metric([name], float(able))
        yield models


class Metrics:
    def __init__(self, health: Health) -> None:
        self._health = health

    def routes(self) -> list[Route]:
        return [Route("/metrics", self._tell, methods=["GET"])]

    async def _tell(self, request: Request) -> Response:
        queue = queue_state(request.app.get_blocks())
        text = await run_in_threadpool(self._text, queue)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    def _text(self, queue: QueueState) -> bytes:
        now = CollectorRegistry()
        now.register(_Now(self._health, queue))
        ProcessCollector(registry=now)
        return generate_latest(now) + generate_latest(ANSWERS)
