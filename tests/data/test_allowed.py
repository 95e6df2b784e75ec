"""Which data a form may name: nothing outside, through whatever link."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvla.data.allowed import PlaceError, data_place
from qvla.settings import Settings
from tests.support.serving import write_risc_folder


@pytest.mark.parametrize("link", ["resized/airport", "resized", "captions.csv", "refs.json"])
def test_data_that_is_read_through_a_link_to_elsewhere_is_refused(
    tmp_path: Path, link: str
) -> None:
    root = tmp_path / "root"
    data = write_risc_folder(root / "data", [("A", "val", "a.png", ["x"])])
    settings = Settings(data_roots=[root])
    assert data_place(str(data), settings) == str(data.resolve())
    outside = tmp_path / "outside" / link
    outside.parent.mkdir(parents=True)
    if (data / link).exists():
        (data / link).rename(outside)
    else:
        outside.mkdir() if "." not in link else outside.touch()
    (data / link).symlink_to(outside)
    with pytest.raises(PlaceError, match="nor in a folder that jobs may use"):
        data_place(str(data), settings)


def test_links_within_are_taken(tmp_path: Path) -> None:
    data = write_risc_folder(tmp_path / "data", [("A", "val", "a.png", ["x"])])
    (data / "images").symlink_to(data / "resized")
    assert data_place(str(data), Settings(data=data)) == str(data.resolve())
