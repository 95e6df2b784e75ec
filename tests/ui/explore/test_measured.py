"""The section of the Explore tab that shows what sweeps measured."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from qvla.records import store as records
from qvla.settings import Settings
from qvla.ui.explore.measured import MeasuredSection
from tests.support.sweeps import sweep_run


def test_a_sweep_is_shown_and_without_one_the_section_says_how_to_make_it(tmp_path: Path) -> None:
    settings = Settings(records=tmp_path)
    with gr.Blocks():
        section = MeasuredSection(settings)
    nothing = section.show()
    assert "python -m qvla sweep" in nothing[section.lead]
    assert nothing[section.frame].visible is False
    for name, cider in (("lora, rank 4", 0.3), ("lora, rank 8", 0.4), ("lora, rank 16", 0.5)):
        run = sweep_run(name, cider, rank=int(name.split()[-1]))
        records.write(run.record, tmp_path)
    shown = section.show()
    assert shown[section.frame].visible is True and "3 runs" in shown[section.lead]
    exhibit = section.exhibits["parameters"]
    assert shown[exhibit.plot].visible is True
    assert "0.500 (0.450 to 0.570)" in shown[exhibit.table]
    assert Path(shown[exhibit.csv].value["path"]).read_text().count("\n") == 4
