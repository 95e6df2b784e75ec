"""Several photos at once: a table that fills as captions come."""
