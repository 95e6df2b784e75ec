"""Data sets as `qvla.data.risc` reads them: fetched, checked and counted."""
