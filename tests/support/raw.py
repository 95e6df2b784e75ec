"""A visitor without a page: what is sent to an endpoint, and what comes back over the line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.waiting import PATIENCE


def sent(path: Path) -> dict[str, Any]:
    """A file as a browser names one that was uploaded."""
    return {"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}


@dataclass(frozen=True)
class RawVisitor:
    """One session of the app at an address."""

    address: str
    session: str

    def call(self, name: str, *data: Any) -> str:
        """All that an endpoint answers. Of its inputs those that the server keeps are left out."""
        way = f"{self.address}gradio_api/call/{name}"
        with httpx.Client(timeout=PATIENCE) as client:
            asked = client.post(way, json={"data": data, "session_hash": self.session})
            return client.get(f"{way}/{asked.json()['event_id']}").text

    def upload(self, path: Path) -> dict[str, Any]:
        files = {"files": (path.name, path.read_bytes())}
        (place,) = httpx.post(f"{self.address}gradio_api/upload", files=files).json()
        return {**sent(path), "path": place}
