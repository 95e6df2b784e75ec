"""QVLA: compare a base, an adapted and a quantised adapted PaliGemma on satellite images."""

__version__ = "0.1.0"
