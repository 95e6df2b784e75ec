"""The log of a job as it is shown."""

from __future__ import annotations

from pathlib import Path

from qvla.jobs.folder import last_lines


def test_of_a_line_that_was_written_over_the_last_state_is_shown(tmp_path: Path) -> None:
    """As a terminal shows it: bars of progress are drawn over and over on one line."""
    log = tmp_path / "log.txt"
    bars = "".join(f"\rLoading weights: {share:3d}%|###| {share}/100" for share in range(101))
    log.write_text(f"Attempt 1, from the start.\n{bars}\nwords\r\n\rhalf a bar", newline="")
    assert last_lines(log).splitlines() == [
        "Attempt 1, from the start.",
        "Loading weights: 100%|###| 100/100",
        "words",
        "half a bar",
    ]
    assert last_lines(log, lines=2) == "words\nhalf a bar"
    assert last_lines(tmp_path / "none") == ""
