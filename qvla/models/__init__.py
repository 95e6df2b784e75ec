"""Weights in memory: found, checked, loaded in a precision, given adapters, counted."""
