"""Logs for programs: a JSON object a line, with nothing in it that a visitor wrote."""

from __future__ import annotations

import json
import logging
import sys

from qvla.cli.logs import AsJson


def test_a_line_tells_what_was_raised_and_where_but_not_its_text() -> None:
    try:
        raise ValueError("is there a secret harbour")
    except ValueError:
        raised = sys.exc_info()
    record = logging.makeLogRecord(
        {
            "name": "qvla.ui",
            "levelno": logging.ERROR,
            "levelname": "ERROR",
            "msg": "%s failed\nat once",
            "args": ("A comparison",),
            "exc_info": raised,
            "fields": {"model": "qvla"},
        }
    )
    line = AsJson().format(record)
    told = json.loads(line)
    assert "\n" not in line and "harbour" not in line
    assert (told["level"], told["logger"], told["model"]) == ("error", "qvla.ui", "qvla")
    assert told["message"] == "A comparison failed\nat once"
    assert told["raised"] == "ValueError" and told["at"][0].startswith(__file__)
