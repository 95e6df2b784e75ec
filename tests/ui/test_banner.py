"""Which model runs, as the page tells it where the one that was named is gated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

from qvla.settings import EMBEDDED_MODEL, load_settings
from tests.support.hub import small_hub

SCRIPT = """
    import json
    from qvla.captioning.contenders import contenders_of
    from qvla.captioning.loader import LineupLoader
    from qvla.captioning.standing_in import with_stand_in
    from qvla.settings import load_settings
    from qvla.ui.banner import render_banner

    told = {}
    for name in ("gated", "good", "missing"):
        settings = with_stand_in(load_settings(model=f"owner/{name}", adapter="owner/adapter"))
        three = [(one.base, one.adapter) for one in contenders_of(settings)]
        page = render_banner(settings, LineupLoader.of(settings))
        told[name] = {"model": settings.model, "three": three, "page": page}
    print(json.dumps(told))
"""


def test_a_gated_model_without_licence_is_stood_in_for_and_the_two_steps_are_told(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    kept.pop("HF_TOKEN", None)
    with small_hub(tiny_checkpoint) as hub:
        own = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(SCRIPT)],
            capture_output=True,
            text=True,
            env={**kept, **own},
        )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    mini = str(EMBEDDED_MODEL)
    assert told["gated"]["model"] == mini
    # Its adapters are of no use to the embedded model, which has its own.
    assert told["gated"]["three"] == [
        [mini, None],
        [mini, str(EMBEDDED_MODEL / "adapter")],
        [mini, str(EMBEDDED_MODEL / "qvla")],
    ]
    page = told["gated"]["page"]
    assert "<b>owner/gated</b> is gated" in page
    assert page.count("<li>") == 2 and f"{hub}/owner/gated" in page and "HF_TOKEN" in page
    for name in ("good", "missing"):  # one that can be had; what else can be wrong, loading tells
        assert told[name]["model"] == f"owner/{name}"
        assert told[name]["three"][1] == [f"owner/{name}", "owner/adapter"]
        assert "<li>" not in told[name]["page"]


def test_without_a_gated_model_nothing_stands_in() -> None:
    assert load_settings().stands_in_for is None
