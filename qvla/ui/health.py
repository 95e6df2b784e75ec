"""`/health`: whether the app can answer, for whoever keeps it running."""

from __future__ import annotations

import shutil
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qvla.captioning.loader import LineupLoader, Phase
from qvla.jobs.app_worker import AppWorker
from qvla.settings import Settings
from qvla.ui.queue_state import queue_state

LEAST_FREE_BYTES = 2**28  # uploads, records and checkpoints need some room


class Health:
    """Ready is who has weights and room on the disk; the worker of jobs is told of, and no more."""

    def __init__(self, settings: Settings, loader: LineupLoader) -> None:
        self._settings = settings
        self._loader = loader
        self.worker: AppWorker | None = None  # once there is one

    def routes(self) -> list[Route]:
        return [Route("/health", self._tell, methods=["GET"])]

    async def _tell(self, request: Request) -> Response:
        queue = queue_state(request.app.get_blocks())
        told = await run_in_threadpool(self.report)
        told["queue"] = {"waiting": queue.waiting, "running": queue.running, "most": queue.most}
        return JSONResponse(told, 200 if told["ready"] else 503)

    def report(self) -> dict[str, Any]:
        """All but the queue. Names of models and no paths: anybody may read it."""
        phase, free = self._loader.state().phase, self.free_bytes()
        return {
            "ready": phase is Phase.READY and free >= LEAST_FREE_BYTES,
            "weights": phase.value,
            "models": self.models(),
            "disk": {"free_bytes": free, "least_bytes": LEAST_FREE_BYTES},
            "worker": self.worker_state(),
        }

    def models(self) -> dict[str, bool]:
        """Each contender, and whether it can answer."""
        lineup = self._loader.lineup
        if lineup is None:
            return {one.name: False for one in self._loader.contenders}
        return {one.name: one.available for one in lineup.variants()}

    def free_bytes(self) -> int:
        """On the disk where what is made here goes, or will once its folder is there."""
        home = self._settings.home.absolute()
        return shutil.disk_usage(next(one for one in (home, *home.parents) if one.exists())).free

    def worker_state(self) -> str:
        if self._settings.worker == "off":
            return "elsewhere"
        return "running" if self.worker is not None and self.worker.alive else "stopped"
