"""Dockerfile and compose file against what they are made of; neither is built or started here."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import qvla
from qvla.cli import main as cli
from qvla.settings import Settings, load_settings

ROOT = Path(qvla.__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]


def test_every_variable_is_a_setting() -> None:
    named = set(re.findall(r"\bQVLA_\w+(?==)", DOCKERFILE))
    for service in SERVICES.values():
        named |= {one for one in service.get("environment", {}) if one.startswith("QVLA_")}
    known = {f"QVLA_{field.upper()}" for field in Settings.model_fields}
    assert len(named) >= 7 and named <= known


def test_the_image_has_what_it_runs_and_its_versions() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for name in re.findall(r"^COPY (\S+) ", DOCKERFILE, re.MULTILINE):
        assert (ROOT / name).exists() and f"!{name}" in ignored, name
    pins = {*(ROOT / "requirements.txt").read_text().split()}
    pins |= {*(ROOT / "requirements-dev.txt").read_text().split()}
    found = re.findall(r'"?([a-z]+(?:\[\w+\])?==[\d.]+)"?', DOCKERFILE)
    assert len(found) == 2 and set(found) <= pins
    header = yaml.safe_load((ROOT / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert f"FROM python:{header['python_version']}-slim" in DOCKERFILE
    for package in (ROOT / "packages.txt").read_text().split():
        assert package in DOCKERFILE


def test_app_and_worker_share_queue_store_and_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    app, worker = SERVICES["app"], SERVICES["worker"]
    assert app["volumes"] == worker["volumes"] and app["image"] == worker["image"]
    arguments = worker["command"][worker["command"].index("qvla") + 1 :]
    assert callable(cli.parse(arguments).run)
    found = []
    for service in (app, worker):
        for name, value in service["environment"].items():
            monkeypatch.setenv(name, re.sub(r"\$\{\w+:[?-]\}", "", value))
        found.append(load_settings())
        assert found[-1].worker == "off"  # the app runs none of its own
    assert found[0].redis_url == found[1].redis_url == "redis://queue:6379/0"
    assert found[0].database_url == found[1].database_url
    assert {"queue", "store"} <= set(app["depends_on"]) & set(SERVICES)
    assert all(port.startswith("127.0.0.1:") for port in app["ports"])  # the proxy's to open


def test_docker_itself_reads_the_compose_file() -> None:
    program = shutil.which("docker")
    if (
        program is None
        or subprocess.run([program, "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("docker compose is not installed")
    given = {"QVLA_ADMIN_PASSWORD": "a", "QVLA_STORE_PASSWORD": "b", "PATH": "/usr/bin:/bin"}
    command = [program, "compose", "--file", str(ROOT / "compose.yaml"), "config", "--quiet"]
    done = subprocess.run(command, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    del given["QVLA_STORE_PASSWORD"]  # no password of anybody's choosing but the host's
    assert subprocess.run(command, env=given, capture_output=True).returncode != 0
