"""What the hub can answer, asked of a small hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvla.errors import QvlaError
from qvla.hub import local_folder
from tests.support.hub import small_hub


@pytest.fixture
def hub(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    for file in tiny_checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"a pickle, which must not be fetched")
    with small_hub(folder) as address:
        yield address


def ask(endpoint: str, home: Path, offline: bool = False) -> dict[str, str]:
    """What `local_folder` says to each name, in a process that knows this hub alone."""
    script = """
        import json, os
        from qvla.errors import QvlaError
        from qvla.hub import is_withheld, local_folder

        answers = {}
        def ask(key, name):
            try:
                answers[key] = str(local_folder(name, ["*.json", "*.safetensors"], QvlaError))
            except QvlaError as error:
                answers[key] = f"refused: {error}"

        for name in ("good", "gated", "missing", "broken", "barred"):
            ask(name, f"owner/{name}")
        withheld = [name for name in answers if is_withheld(f"owner/{name}")]
        os.environ["HF_TOKEN"] = "not-a-real-token"
        withheld += [name for name in ("good", "gated") if is_withheld(f"owner/{name}")]
        answers["withheld"] = " ".join(withheld)
        ask("gated with a token", "owner/gated")
        print(json.dumps(answers))
    """
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    kept.pop("HF_TOKEN", None)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env={
            **kept,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "1" if offline else "0",
            "HF_HUB_DISABLE_XET": "1",
        },
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    for answer in answers.values():
        assert "\n" not in answer and len(answer) < 450
    return answers


def test_a_model_is_fetched_and_refusals_are_told_apart(
    hub: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    answers = ask(hub, tmp_path / "home")
    fetched = {file.name: file.read_bytes() for file in Path(answers["good"]).iterdir()}
    assert fetched == {file.name: file.read_bytes() for file in tiny_checkpoint.iterdir()}
    assert "is gated and this machine is not logged in" in answers["gated"]
    assert f"{hub}/owner/gated" in answers["gated"]  # where the licence is
    assert "account of this machine's token may not read it" in answers["gated with a token"]
    assert "neither a path here nor a model that this account can see" in answers["missing"]
    assert answers["withheld"] == "gated gated"  # without a token, and with a stranger's
    for name in ("broken", "barred"):
        assert f"{hub} did not serve it" in answers[name]

    # From now on the hub is out of reach: what was fetched stays usable.
    later = ask("http://127.0.0.1:9", tmp_path / "home")
    assert later["good"] == answers["good"]
    assert "check the connection" in later["missing"] and not later["withheld"]
    offline = ask(hub, tmp_path / "home", offline=True)
    assert offline["good"] == answers["good"]
    assert "switched off by HF_HUB_OFFLINE" in offline["missing"]


def test_offline_and_not_cached() -> None:
    with pytest.raises(QvlaError, match="switched off by HF_HUB_OFFLINE"):
        local_folder("owner/never-fetched", ["config.json"], QvlaError)


@pytest.mark.parametrize(
    "name", ["plain", "a/b/c", "owner/ spaced", "../up", "/nowhere/x", "owner/.."]
)
def test_what_is_neither_a_folder_nor_a_hub_id(name: str) -> None:
    with pytest.raises(QvlaError, match="There is no folder"):
        local_folder(name, ["config.json"], QvlaError)
