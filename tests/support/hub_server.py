"""A Hugging Face Hub on this machine that keeps what is written to it, and runs jobs.

It speaks the documented endpoints that huggingface_hub's client asks for: who one is, repositories
and their commits, large files by Git LFS, trees and files, jobs with their logs as server-sent
events. A job is its command as a process here, in a folder of its own, where `uv` stands for the
container's image.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

from tests.support.hub_jobs import HubJob

TOKEN, ACCOUNT = "hf_of_the_tests", "someone"
LARGE = (".safetensors", ".pt", ".pth", ".zip")  # these come by Git LFS
UNKNOWN = "Invalid credentials in Authorization header"
REPO = r"(?P<repo>[\w.-]+/[\w.-]+?)"


class HubState:
    """What the hub has, and how it is to answer; shared by all of its connections."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, dict[str, bytes]] = {}
        self.stored: dict[str, bytes] = {}  # what came as large files, by their sha256
        self.private: dict[str, bool] = {}
        self.commits: dict[str, list[list[str]]] = {}
        self.jobs: dict[str, HubJob] = {}
        self.asked: list[tuple[str, str]] = []  # method and path of every request
        self.refuse: list[tuple[str, int, str]] = []  # "METHOD path" as a pattern, status, words
        self.refused_once: list[tuple[str, int]] = []  # the same, each for one request only
        self.after_commit: Callable[[str, list[str]], None] = lambda repo, paths: None
        self.script: list[str] | None = None  # run by jobs in place of their command
        self.lock = threading.RLock()
        self.connections: set[socket.socket] = set()

    def sha(self, repo: str) -> str:
        return hashlib.sha1(f"{repo}{len(self.commits[repo])}".encode()).hexdigest()

    def end(self) -> None:
        for job in self.jobs.values():
            job.kill()


class Handler(BaseHTTPRequestHandler):
    """One connection; `state` is set by `hub_server`."""

    state: HubState
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.state.connections.add(self.connection)

    def finish(self) -> None:
        self.state.connections.discard(self.connection)
        with suppress(OSError):  # it was cut
            super().finish()

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_HEAD = do_PUT = do_GET

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._chunks()
        state = self.state
        asked = f"{self.command} {path}"
        with state.lock:
            state.asked.append((self.command, path))
            for pattern, status in state.refused_once:
                if re.search(pattern, asked):
                    state.refused_once.remove((pattern, status))
                    return self._json({"error": "Once"}, status)
        for pattern, status, words in state.refuse:
            if re.search(pattern, asked):
                return self._json({"error": words}, status)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if not known and self.command != "PUT":  # an address to put a file at is its own ticket
            return self._send(401, b"{}", {"X-Error-Message": UNKNOWN})
        for method, pattern, handle in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method:
                if found.groupdict().get("repo", ACCOUNT) not in {ACCOUNT, *state.files}:
                    return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
                return handle(self, body, **found.groupdict())
        return self._json({"error": f"No such endpoint: {asked}"}, 404)

    def _chunks(self) -> bytes:
        """A body that comes in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    # ---- repositories -------------------------------------------------------------------------

    def who(self, body: bytes) -> None:
        self._json({"type": "user", "name": ACCOUNT, "id": "1", "orgs": []})

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo = f"{asked.get('organization') or ACCOUNT}/{asked['name']}"
        with self.state.lock:
            there = repo in self.state.files
            if not there:
                self.state.files[repo] = {}
                self.state.commits[repo] = []
                self.state.private[repo] = bool(
                    asked.get("private") or asked.get("visibility") == "private"
                )
        self._json({"url": f"{self._own}/{repo}", "name": repo}, 409 if there else 200)

    def preupload(self, body: bytes, repo: str) -> None:
        wanted = json.loads(body)["files"]
        told = [
            {"path": path, "uploadMode": "lfs" if path.endswith(LARGE) else "regular"}
            for path in (one["path"] for one in wanted)
        ]
        self._json({"files": [{**one, "shouldIgnore": False} for one in told]})

    def batch(self, body: bytes, repo: str) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self._own}/stored/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str) -> None:
        right = hashlib.sha256(body).hexdigest() == oid
        if right:
            self.state.stored[oid] = body
        self._json({}, 200 if right else 400)

    def commit(self, body: bytes, repo: str) -> None:
        paths = []
        with self.state.lock:
            files = self.state.files[repo]
            for line in body.splitlines():
                item = json.loads(line)
                key, value = item["key"], item["value"]
                if key == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif key == "lfsFile":
                    files[value["path"]] = self.state.stored[value["oid"]]
                elif key == "deletedFile":
                    files.pop(value["path"], None)
                elif key == "deletedFolder":
                    for name in [n for n in files if n.startswith(value["path"].rstrip("/") + "/")]:
                        del files[name]
                paths += [value["path"]] if key != "header" else []
            self.state.commits[repo].append(paths)
            sha = self.state.sha(repo)
        self._json({"commitUrl": f"{self._own}/{repo}/commit/{sha}", "commitOid": sha})
        self.state.after_commit(repo, paths)

    def info(self, body: bytes, repo: str) -> None:
        names = [{"rfilename": name} for name in sorted(self.state.files[repo])]
        sha = self.state.sha(repo)
        self._json({"id": repo, "sha": sha, "private": True, "siblings": names})

    def tree(self, body: bytes, repo: str) -> None:
        entries = [
            {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
            for name, content in sorted(self.state.files[repo].items())
        ]
        self._json(entries)

    def resolve(self, body: bytes, repo: str, file: str) -> None:
        content = self.state.files[repo].get(file)
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        tags = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": self.state.sha(repo)}
        return self._send(200, content, tags)

    # ---- jobs ---------------------------------------------------------------------------------

    def run_job(self, body: bytes, account: str) -> None:
        job_id = secrets.token_hex(12)
        job = HubJob(job_id, json.loads(body), self.state.folder / job_id, self.state.script)
        self.state.jobs[job_id] = job
        self._json(job.told(ACCOUNT))

    def job(self, body: bytes, account: str, job: str) -> None:
        if job not in self.state.jobs:
            return self._json({"error": "Job not found"}, 404)
        return self._json(self.state.jobs[job].told(ACCOUNT))

    def cancel(self, body: bytes, account: str, job: str) -> None:
        self.state.jobs[job].end("CANCELED")
        self._json(self.state.jobs[job].told(ACCOUNT))

    def logs(self, body: bytes, account: str, job: str) -> None:
        """All lines from the first on, and then those that come until the job has ended."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for line in self.state.jobs[job].lines():
            event = {"data": line, "timestamp": "2026-01-01T00:00:00Z"}
            try:
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.wfile.flush()
            except OSError:  # who listened is gone
                return

    # ---- answers ------------------------------------------------------------------------------

    @property
    def _own(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


ROUTES: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("GET", "/api/whoami-v2", Handler.who),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", f"/api/models/{REPO}/preupload/main", Handler.preupload),
    ("POST", f"/api/models/{REPO}/commit/main", Handler.commit),
    ("POST", f"/{REPO}.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", r"/stored/(?P<oid>\w+)", Handler.put),
    ("GET", f"/api/models/{REPO}(?:/revision/[^/]+)?", Handler.info),
    ("GET", f"/api/models/{REPO}/tree/[^/]+", Handler.tree),
    ("GET HEAD", f"/{REPO}/resolve/[^/]+/(?P<file>.+)", Handler.resolve),
    ("POST", r"/api/jobs/(?P<account>\w+)", Handler.run_job),
    ("GET", r"/api/jobs/(?P<account>\w+)/(?P<job>\w+)", Handler.job),
    ("GET", r"/api/jobs/(?P<account>\w+)/(?P<job>\w+)/logs", Handler.logs),
    ("POST", r"/api/jobs/(?P<account>\w+)/(?P<job>\w+)/cancel", Handler.cancel),
)


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer:
    """The hub at an address that stays the same while it is down."""

    def __init__(self, folder: Path) -> None:
        self.state = HubState(folder)
        self.port = 0
        self.up()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        handler = type("Own", (Handler,), {"state": self.state})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Answers nobody any more, and cuts whoever is being answered."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self.state.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def hub_server(folder: Path) -> Iterator[HubServer]:
    """A hub whose jobs have their folders in `folder`."""
    server = HubServer(folder)
    try:
        yield server
    finally:
        server.state.end()
        server.down()


def known_here(server: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has this process, and those that it starts, know this hub alone."""
    for name, value in environment(server, home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


def environment(server: HubServer, home: Path) -> dict[str, str]:
    """What a process is told that knows this hub alone."""
    return {
        "HF_ENDPOINT": server.address,
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": os.environ.get("NO_PROXY", "") + ",127.0.0.1",
    }
