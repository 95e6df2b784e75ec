"""Which way up a picture is, read from EXIF or XMP without trusting the rest of either.

Only this one tag is looked at and nothing is ever written back, so a tag of an odd type beside it
does no harm, and neither do entries that claim more bytes than there are.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

ORIENTATION = 0x0112
SUB_IFDS = (0x8769, 0x8825, 0xA005)  # EXIF, GPS, interoperability
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
RATIONALS = {5: "II", 10: "ii"}
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4} | {
    kind: 8 for kind in (16, 17, 18)
}
XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


@dataclass(frozen=True)
class Entry:
    """One tag of a TIFF directory; `start` is where its values lie."""

    tag: int
    kind: int
    count: int
    start: int

    @property
    def size(self) -> int:
        return SIZES.get(self.kind, 0) * self.count


class TiffTags:
    """The first directory of a TIFF file, or of EXIF, which is laid out in the same way."""

    def __init__(self, data: bytes) -> None:
        """Raises struct.error or ValueError where there is no such thing."""
        self._data = data
        self._order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
        version = self._unpack("H", 2)[0] if self._order else 0
        if version not in (42, 43):
            raise ValueError("no TIFF")
        self._big = version == 43
        self._first = self._unpack("Q", 8)[0] if self._big else self._unpack("I", 4)[0]
        self.entries = {entry.tag: entry for entry in self._directory(self._first)}

    def number(self, tag: int) -> int | None:
        """The first value of a tag where it is a whole number, of whatever type."""
        entry = self.entries.get(tag)
        if entry is None or entry.count < 1:
            return None
        try:
            if entry.kind in INTEGERS:
                return self._unpack(INTEGERS[entry.kind], entry.start)[0]
            if entry.kind in RATIONALS:
                above, below = self._unpack(RATIONALS[entry.kind], entry.start)
                return above // below if below and above % below == 0 else None
        except struct.error:
            pass
        return None

    def content(self, tag: int) -> bytes:
        entry = self.entries.get(tag)
        return self._data[entry.start : entry.start + entry.size] if entry else b""

    def claimed(self) -> int:
        """The bytes that this directory and those below it say their values take together."""
        directories = [self._first, *filter(None, map(self.number, SUB_IFDS))]
        return sum(entry.size for start in directories for entry in self._directory(start))

    def _directory(self, start: int) -> Iterator[Entry]:
        head, each, inline = (8, 20, 8) if self._big else (2, 12, 4)
        try:
            [count] = self._unpack("Q" if self._big else "H", start)
            for place in range(start + head, start + head + each * min(count, 65_535), each):
                tag, kind, number = self._unpack("HHQ" if self._big else "HHI", place)
                at = place + each - inline
                if SIZES.get(kind, 0) * number > inline:
                    [at] = self._unpack("Q" if self._big else "I", at)
                yield Entry(tag, kind, number, at)
        except (struct.error, OverflowError):  # the file ends here
            return

    def _unpack(self, layout: str, start: int) -> tuple[int, ...]:
        return struct.unpack_from(self._order + layout, self._data, start)


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """1 to 8 as EXIF has it; 1 where nothing sensible is said."""
    try:
        said = TiffTags(exif.removeprefix(b"Exif\0\0")).number(ORIENTATION)
    except (struct.error, ValueError):
        said = None
    if said is None and (found := XMP.search(xmp)):
        said = int(found[1])
    return said if said is not None and 1 <= said <= 8 else 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)
