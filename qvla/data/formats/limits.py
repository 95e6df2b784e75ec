"""How much memory and work one file may take, whatever its header announces.

A photo of up to 25 million pixels keeps its size where that fits the budget. A larger one is read
at a half, a quarter or an eighth of its width and height, which the model (224 to 896 pixels a
side) and the page (900) still have to shrink.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from qvla.data.formats.photo import ImageError

BUDGET = 160_000_000  # bytes that unpacking may hold at any moment, the picture included
WHOLE_PIXELS = 6144 * 4096
LARGE = 32_000_000  # bytes from which a file waits for its turn
LARGE_AT_ONCE = 2


def fraction(pixels: int, a_pixel: int, held: int = 0) -> int:
    """The smallest power of two to divide width and height by, so that the budget is kept.

    `a_pixel` counts the bytes that each pixel of the result takes while it is made, `held` what the
    decoder keeps whatever the size of the result. Raises ImageError where nothing is small enough.
    """
    step = 1
    while pixels / step**2 > WHOLE_PIXELS or held + a_pixel * pixels / step**2 > BUDGET:
        step *= 2
        if step > 8:
            raise ImageError("This image is too large when unpacked; upload a part of it.")
    return step


class Turns:
    """Lets a few large files be unpacked at once. Small ones never wait, neither for each other nor
    for large ones: the decoders leave the interpreter to other threads while they work.
    """

    def __init__(self, at_once: int) -> None:
        self._free = threading.Semaphore(at_once)
        self.waiting = 0

    @contextmanager
    def turn(self, unpacked: float) -> Iterator[None]:
        """Waits for a turn where so many bytes will be unpacked, and holds it."""
        if unpacked < LARGE:
            yield
            return
        self.waiting += 1
        with self._free:
            self.waiting -= 1
            yield


turns = Turns(LARGE_AT_ONCE)
