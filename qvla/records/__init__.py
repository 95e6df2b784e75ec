"""Measured results on disk, the figures that were only reported, time and memory."""
