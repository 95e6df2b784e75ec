"""A small hub on this machine: a model to fetch, one that is gated, and others that are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.support.servers import http_server

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Serves one model as the hub does; `folder` is set by `small_hub`."""

    folder: Path

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/owner/good/revision/"):
            self._json({"id": "owner/good", "sha": COMMIT, "siblings": []})
        elif path.startswith("/api/models/owner/good/tree/"):
            self._json([self._entry(file) for file in self.folder.iterdir()])
        elif path.startswith(f"/owner/good/resolve/{COMMIT}/"):
            self._file(self.folder / Path(path).name)
        elif "/owner/gated" in path and "/api/" in path and "/tree/" in path:
            self._json([{"type": "file", "path": "config.json", "size": 2, "oid": "0" * 40}])
        elif "/owner/gated" in path and "/api/" in path:
            self._json({"id": "owner/gated", "sha": COMMIT, "siblings": []})
        elif "/owner/gated" in path:
            known = self.headers.get("Authorization") is not None
            self._refuse(403 if known else 401, "GatedRepo")
        elif "/owner/broken" in path:
            self._refuse(500)
        elif "/owner/barred" in path:
            self._refuse(403)
        else:
            self._refuse(401, "RepoNotFound")

    do_HEAD = do_GET

    def _entry(self, file: Path) -> dict[str, object]:
        oid = hashlib.sha1(file.read_bytes()).hexdigest()
        return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": oid}

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode())

    def _file(self, file: Path) -> None:
        content = file.read_bytes()
        tag = hashlib.sha1(content).hexdigest()
        self._send(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

    def _refuse(self, status: int, code: str | None = None) -> None:
        self._send(status, b"{}", {} if code is None else {"X-Error-Code": code})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def small_hub(folder: Path) -> Iterator[str]:
    """Its address; `owner/good` is what lies in the folder."""
    with http_server(type("Served", (Hub,), {"folder": folder})) as address:
        yield address
