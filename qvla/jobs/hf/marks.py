"""What a job tells whoever follows its log, at the beginning of a line."""

from __future__ import annotations

EVENT = "QVLA:event "  # a row of the run's events, as JSON
PUSHED = "QVLA:pushed "  # the step of the checkpoint that is in the repository now
OUT_OF_TIME = "QVLA:out-of-time"  # the run ended itself before the time-out would have
