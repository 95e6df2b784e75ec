"""QVLA as it is once installed: its wheel in an environment of its own, used from another folder.

The environment is a new one in a folder `.venv` within somebody else's repository, and sees the
libraries of the one that runs the tests. Nothing is fetched.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from gradio_client import Client, handle_file

ROOT = Path(__file__).resolve().parents[1]
PHOTO = ROOT / "assets" / "examples" / "resized" / "mountain.jpg"
PATIENCE = 180  # seconds


@dataclass(frozen=True)
class Installed:
    """The environment `bin`, and the folder `elsewhere` that commands are run in, with a photo."""

    bin: Path
    elsewhere: Path
    home: Path
    environment: dict[str, str]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=self.elsewhere,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )


def run(*command: object, cwd: Path = ROOT) -> None:
    result = subprocess.run([str(one) for one in command], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, so that this holds all that is needed as well."""
    made = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", made)
    [source] = made.glob("*.tar.gz")
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", *offline, "-w", made, source)
    [path] = made.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    theirs = tmp_path_factory.mktemp("their repository")
    if shutil.which("git"):
        run("git", "init", "-q", cwd=theirs)
        author = ("-c", "user.name=They", "-c", "user.email=they@example.org")
        run("git", *author, "commit", "-q", "--allow-empty", "-m", "Theirs", cwd=theirs)
    venv.EnvBuilder(symlinks=os.name != "nt").create(theirs / ".venv")
    bin = theirs / ".venv" / ("Scripts" if os.name == "nt" else "bin")
    offline = ("--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", f"--python={bin / 'python'}", "install", *offline, wheel)
    [package] = (theirs / ".venv").rglob("site-packages/qvla")
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (package.parent / "libraries.pth").write_text("\n".join(libraries))

    elsewhere, home = theirs / "another földer", theirs / "home"
    elsewhere.mkdir()
    (theirs / "temporary").mkdir()
    shutil.copy(PHOTO, elsewhere / "photo.jpg")
    ours = ("QVLA_", "GRADIO_", "XDG_", "PYTHONPATH", "SPACE_ID")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {
        "HOME": str(home),
        "TMPDIR": str(theirs / "temporary"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    before = {*(theirs / ".venv").rglob("*"), *elsewhere.rglob("*")}
    yield Installed(bin, elsewhere, home, environment)
    assert {*(theirs / ".venv").rglob("*"), *elsewhere.rglob("*")} - before == set()


def test_the_wheel_holds_the_package_and_what_comes_with_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        within = {name: archive.getinfo(name).file_size for name in archive.namelist()}
    code = {path: path.relative_to(ROOT) for path in ROOT.glob("qvla/**/*.py")}
    shipped = {
        path: Path("qvla/shipped") / path.relative_to(ROOT)
        for folder in ("assets", "checkpoints")
        for path in ROOT.glob(f"{folder}/**/*")
        if path.is_file()
    }
    assert len(code) > 100 and len(shipped) > 40
    wanted = {name.as_posix(): path.stat().st_size for path, name in (code | shipped).items()}
    assert {name: size for name, size in wanted.items() if within.get(name) != size} == {}
    others = {name.split("/")[0] for name in within} - {"qvla"}
    assert len(others) == 1 and others.pop().endswith(".dist-info")


@pytest.mark.slow
def test_the_app_answers(installed: Installed) -> None:
    server = subprocess.Popen(
        [installed.bin / "qvla", "serve"],
        cwd=installed.elsewhere,
        env=installed.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said: list[str] = []
        while not said or not said[-1].startswith("QVLA is open at "):
            said.append(server.stdout.readline())
            assert said[-1], f"it ended: {''.join(said)}"
        address = said[-1].split()[-1]
        with urllib.request.urlopen(address, timeout=PATIENCE) as page:
            assert page.status == 200 and "QVLA" in page.read().decode()
        client = Client(address, verbose=False)
        told = client.predict(handle_file(PHOTO), api_name="/compare")
        assert [told[name]["caption"] for name in ("base", "adapter", "qvla")]
        assert all(told[name]["caption"] for name in ("base", "adapter", "qvla"))
    finally:
        server.terminate()
        server.wait(PATIENCE)


@pytest.mark.slow
def test_the_command_line_captions(installed: Installed) -> None:
    told = installed.run("qvla", "caption", "photo.jpg", "--variant", "adapter")
    assert told.returncode == 0 and "mountain" in told.stdout, told.stderr


KEEP = """
from qvla.records import store
made = {"model": settings.model_name, "variants": (), "data": None, "numbers": {}, "protocol": {}}
store.write(store.new_record("a test", **made), settings.records)
"""


@pytest.mark.slow
def test_the_python_example_of_the_readme_runs_and_records_go_to_the_users_folder(
    installed: Installed,
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    [code] = [block for block in blocks if "qvla" in block]
    told = installed.run("python", "-c", code + KEEP)
    assert told.returncode == 0, told.stderr
    assert [line.split(":")[0] for line in told.stdout.splitlines()] == ["base", "adapter", "qvla"]
    [path] = installed.home.rglob("records/*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["model"] == "mini" and record["commit"] is None
