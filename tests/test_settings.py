from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qvla import settings as module
from qvla.settings import EMBEDDED_MODEL, Settings, SettingsError, load_settings
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("QVLA_", "GRADIO_SERVER_")) or name == "SPACE_ID":
            monkeypatch.delenv(name)


def test_defaults_run_the_embedded_model_for_this_machine_alone() -> None:
    settings = load_settings()
    assert Path(settings.model) == EMBEDDED_MODEL
    assert settings.host == "127.0.0.1"
    assert settings.port is None
    assert settings.data is None
    assert settings.max_upload_bytes == 20 * 2**20
    assert settings.nf4_embeddings == "int8"


def test_environment_overrides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QVLA_MODEL", "google/paligemma-3b-pt-224")
    monkeypatch.setenv("QVLA_DATA", str(tmp_path))
    monkeypatch.setenv("QVLA_PORT", "7900")
    monkeypatch.setenv("QVLA_PRECISION", "bf16")
    monkeypatch.setenv("QVLA_NF4_EMBEDDINGS", "bf16")
    settings = load_settings()
    assert settings.model == "google/paligemma-3b-pt-224"
    assert settings.adapter is None and settings.nf4_adapter is None
    assert settings.data == tmp_path
    assert settings.port == 7900
    assert settings.precision == "bf16"
    assert settings.nf4_embeddings == "bf16"


def test_adapters_beside_the_model_are_found_unless_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "qvla").mkdir()
    monkeypatch.setenv("QVLA_MODEL", str(tmp_path))
    monkeypatch.setenv("QVLA_NF4_ADAPTER", "someone/else")
    settings = load_settings()
    assert settings.adapter == str(tmp_path / "adapter")
    assert settings.nf4_adapter == "someone/else"


@pytest.mark.parametrize(
    ("environment", "host", "port"),
    [
        ({"SPACE_ID": "someone/qvla"}, "0.0.0.0", None),
        ({"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": "7861"}, "0.0.0.0", 7861),
        ({"GRADIO_SERVER_NAME": "0.0.0.0", "QVLA_HOST": "127.0.0.2"}, "127.0.0.2", None),
        ({"SPACE_ID": "someone/qvla", "QVLA_HOST": "127.0.0.1"}, "127.0.0.1", None),
    ],
)
def test_where_it_listens(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], host: str, port: int | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.host, settings.port) == (host, port)


def test_what_is_made_here_goes_to_runs_in_a_checkout_or_where_the_settings_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = load_settings()
    assert settings.home == ROOT / "runs"
    assert (settings.records, settings.jobs) == (ROOT / "runs/records", ROOT / "runs/jobs")
    monkeypatch.setenv("QVLA_HOME", str(tmp_path))
    monkeypatch.setenv("QVLA_JOBS", "/somewhere/else")
    settings = load_settings()
    assert (settings.records, settings.jobs) == (tmp_path / "records", Path("/somewhere/else"))
    assert settings.records.parent == settings.home


def test_once_installed_it_goes_to_the_users_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECKOUT", None)
    home = load_settings().home
    assert home.name == "qvla" and home.is_relative_to(Path.home())


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QVLA_DATA", "")
    monkeypatch.setenv("QVLA_PORT", "")
    assert load_settings().data is None
    assert load_settings().port is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QVLA_PORT", "eighty"),
        ("QVLA_PORT", "70000"),
        ("QVLA_PRECISION", "nf4"),
        ("QVLA_NF4_EMBEDDINGS", "fp8"),
        ("QVLA_DEVICE", "tpu"),
        ("QVLA_MAX_UPLOAD_MB", "0"),
        ("QVLA_CONCURRENCY", "-1"),
        ("QVLA_OPENAI_API", "yes"),
        ("QVLA_LOG", "loud"),
    ],
)
def test_a_bad_value_is_one_sentence_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    sentence = str(caught.value)
    assert sentence.startswith(f"{name} is {value!r}, but it should ")
    assert sentence.endswith(".") and sentence.count(". ") == 0 and "\n" not in sentence


def test_the_app_says_what_is_wrong_and_ends_with_2() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "app.py")],
        env={**os.environ, "QVLA_PORT": "eighty"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("QVLA_PORT is 'eighty'")
    assert result.stderr.count("\n") == 1


def test_the_security_page_names_settings_and_tests_that_there_are() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    tests = set(re.findall(r"`(tests/[\w/.]+)`", page))
    assert tests and {name for name in tests if not (ROOT / name).is_file()} == set()
    settings = {name.lower() for name in re.findall(r"QVLA_(\w+)", page)}
    assert settings <= set(Settings.model_fields)
