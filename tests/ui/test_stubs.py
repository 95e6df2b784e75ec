from __future__ import annotations

from pathlib import Path

import pytest

COMPONENT = """
from gradio.components import HTML


class Own(HTML):
    EVENTS = ["change"]
"""


def test_no_stub_is_written_beside_a_component(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which Gradio does by itself whenever a class of a component comes to be."""
    (tmp_path / "own_component.py").write_text(COMPONENT)
    monkeypatch.syspath_prepend(tmp_path)
    from own_component import Own

    assert Own("text").value == "text"
    assert list(tmp_path.rglob("*.pyi")) == []
