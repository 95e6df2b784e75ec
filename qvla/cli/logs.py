"""Logs for programs: a JSON object a line, `QVLA_LOG=json`."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime

from qvla.settings import Settings


class AsJson(logging.Formatter):
    """Of what was raised it tells kind and place, and not the text, which may hold a visitor's."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            kind, _, trace = record.exc_info
            line["raised"] = kind.__name__
            line["at"] = [f"{one.filename}:{one.lineno}" for one in traceback.extract_tb(trace)]
        return json.dumps(line)


def set_up(settings: Settings) -> None:
    """Has our own messages be lines of JSON where the settings say so, one for each answer too."""
    if settings.log != "json":
        return
    for handler in logging.getLogger("qvla").handlers:
        handler.setFormatter(AsJson())
    logging.getLogger("qvla.answers").setLevel(logging.DEBUG)
