"""What a Hugging Face Space reads before any of our code runs: the head of README.md, and which
packages it installs. Held against each other and against the documentation of Spaces.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import SpaceHardware
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import qvla

ROOT = Path(qvla.__file__).resolve().parents[1]
HEADER: dict[str, Any] = yaml.safe_load(
    (ROOT / "README.md").read_text(encoding="utf-8").split("---\n")[1]
)
PYTHON = HEADER["python_version"]

# https://huggingface.co/docs/hub/spaces-config-reference, and `license`, which every card may have.
DOCUMENTED: dict[str, type | tuple[type, ...]] = {
    "title": str,
    "emoji": str,
    "colorFrom": str,
    "colorTo": str,
    "sdk": str,
    "python_version": str,
    "sdk_version": str,
    "suggested_hardware": str,
    "suggested_storage": str,
    "app_file": str,
    "app_build_command": str,
    "app_port": int,
    "base_path": str,
    "fullWidth": bool,
    "header": str,
    "short_description": str,
    "models": list,
    "datasets": list,
    "tags": list,
    "thumbnail": str,
    "pinned": bool,
    "hf_oauth": bool,
    "hf_oauth_scopes": list,
    "hf_oauth_expiration_minutes": int,
    "hf_oauth_authorized_org": (str, list),
    "disable_embedding": bool,
    "startup_duration_timeout": str,
    "custom_headers": dict,
    "preload_from_hub": list,
    "license": str,
}
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
GATED = {"google/paligemma-3b-pt-224"}


def requirements(name: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-r")]


def pinned() -> dict[str, str]:
    found = {}
    for one in requirements("requirements.txt"):
        [pin] = one.specifier
        assert pin.operator == "==", one
        found[one.name] = pin.version
    return found


def test_the_header_has_documented_keys_alone() -> None:
    for key, value in HEADER.items():
        assert isinstance(value, DOCUMENTED.get(key, ())), f"{key}: {value!r}"
    assert HEADER["sdk"] == "gradio"
    assert {HEADER["colorFrom"], HEADER["colorTo"]} <= COLOURS
    assert HEADER["suggested_hardware"] in {one.value for one in SpaceHardware}
    assert re.fullmatch(r"\d+(\.\d+)?[hm]", HEADER["startup_duration_timeout"])
    assert len(HEADER["short_description"]) <= 60  # more is refused by the hub
    assert HEADER["license"] == "apache-2.0"


def test_the_header_agrees_with_the_repository() -> None:
    assert HEADER["sdk_version"] == pinned()["gradio"]
    assert (ROOT / HEADER["app_file"]).is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    target = project["tool"]["ruff"]["target-version"].removeprefix("py")
    assert PYTHON in SpecifierSet(project["project"]["requires-python"])
    assert int(PYTHON.replace(".", "")) >= int(target)
    assert HEADER["hf_oauth"] is True  # or the admin tab knows nobody
    # The build has no token: a gated repository among these would fail it.
    assert not GATED & {one.split()[0] for one in HEADER.get("preload_from_hub", [])}
    assert set(HEADER["models"]) >= GATED


def test_packages_are_names_of_debian_packages() -> None:
    names = (ROOT / "packages.txt").read_text().split("\n")
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", name) for name in names if name)
    assert "libgomp1" in names  # which PyTorch's CPU kernels and bitsandbytes load


def needed(python: str) -> Iterator[tuple[str, Requirement]]:
    """Every requirement that is met on the way from requirements.txt, and who has it."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    waiting = [("requirements.txt", one) for one in requirements("requirements.txt")]
    seen = set()
    while waiting:
        who, one = waiting.pop()
        if (who, str(one)) in seen:
            continue
        seen.add((who, str(one)))
        yield who, one
        try:
            lines = distribution(one.name).requires or []
        except PackageNotFoundError:
            continue
        for line in map(Requirement, lines):
            extras = one.extras or {""}
            if line.marker is None or any(
                line.marker.evaluate({**environment, "extra": extra}) for extra in extras
            ):
                waiting.append((one.name, line))


@pytest.mark.parametrize(
    "python", sorted({PYTHON, f"{sys.version_info.major}.{sys.version_info.minor}"})
)
def test_what_is_installed_here_is_a_solution_there_too(python: str) -> None:
    """The versions that run these tests satisfy one another under the markers of that Python, and
    each says that it runs on it.
    """
    count = 0
    for who, one in needed(python):
        try:
            found = distribution(one.name)
        except PackageNotFoundError:  # what this Python or system needs not
            continue
        count += 1
        assert one.specifier.contains(found.version, prereleases=True), f"{who} wants {one}"
        runs_on = found.metadata.get("Requires-Python")
        assert runs_on is None or SpecifierSet(runs_on).contains(f"{python}.0"), one.name
    assert count > 100
