"""Data sets as `qvla.dataset` reads them: fetched, checked and counted."""
