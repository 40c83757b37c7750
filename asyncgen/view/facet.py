"""A facet: one property by which rows are filtered, its values, and the rows of each value.

A bitmap for each value while there are few, and a value number for each row. A set of rows is an int with one bit for
each place. Which properties are facets is left to `index`.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence

_MOST_BITMAPS = 256
NO_VALUE = 0xFFFFFFFF


class Facet:
    """A property of rows, each of which has one value of it or none."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self.codes = array("I")
        self._positions: dict[str, int] = {}
        self._bitmaps: list[bytearray] | None = []

    def add(self, place: int, value: str) -> None:
        """Note the value of the row at `place`; places only grow, and those passed over have none."""
        code = self._positions.get(value)
        if code is None:
            code = self._positions[value] = len(self.values)
            self.values.append(value)
            self._make_room(code)
        self._pad(place)
        self.codes.append(code)
        if self._bitmaps is not None:
            set_bit(self._bitmaps[code], place)

    def bits(self, value: str) -> int:
        """The rows that have the value."""
        code = self._positions.get(value)
        if code is None:
            return 0
        if self._bitmaps is not None:
            return int.from_bytes(self._bitmaps[code], "little")
        return bits_of(place for place, each in enumerate(self.codes) if each == code)

    def counts(self, mask: int, places: Sequence[int]) -> list[tuple[str, int]]:
        """How many rows of a set have each value, in the order in which values first came; 0 is told too.

        Args:
            mask: the set.
            places: the same as places.
        """
        if self._bitmaps is not None:
            found = ((mask & int.from_bytes(bitmap, "little")).bit_count() for bitmap in self._bitmaps)
            return list(zip(self.values, found, strict=True))
        last = len(self.codes)
        counted = Counter(self.codes[place] for place in places if place < last)
        return [(value, counted[code]) for code, value in enumerate(self.values)]

    def code(self, place: int) -> int:
        """The number of the row's value in `values`; `NO_VALUE` where it has none."""
        return self.codes[place] if place < len(self.codes) else NO_VALUE

    def _pad(self, place: int) -> None:
        if missing := place - len(self.codes):
            self.codes.extend([NO_VALUE] * missing)

    def _make_room(self, code: int) -> None:
        if code >= _MOST_BITMAPS:
            self._bitmaps = None
        elif self._bitmaps is not None:
            self._bitmaps.append(bytearray())


class Marks:
    """A property of which a row may have several values, such as the checks that it does not pass."""

    def __init__(self) -> None:
        self._bitmaps: dict[str, bytearray] = {}

    def add(self, place: int, value: str) -> None:
        set_bit(self._bitmaps.setdefault(value, bytearray()), place)

    def bits(self, value: str) -> int:
        return int.from_bytes(self._bitmaps.get(value, b""), "little")

    def names(self) -> list[str]:
        """All values, in the order in which they first came."""
        return list(self._bitmaps)

    def counts(self, mask: int) -> list[tuple[str, int]]:
        return [(value, (mask & self.bits(value)).bit_count()) for value in self._bitmaps]


def set_bit(bitmap: bytearray, place: int) -> None:
    """Put a place into a set that is kept as bytes, the lowest first."""
    byte = place >> 3
    if byte >= len(bitmap):
        bitmap.extend(bytes(max(byte + 1 - len(bitmap), len(bitmap) // 4)))
    bitmap[byte] |= 1 << (place & 7)


def bits_of(places: Iterable[int]) -> int:
    """A set as an int."""
    bitmap = bytearray()
    for place in places:
        set_bit(bitmap, place)
    return int.from_bytes(bitmap, "little")


_PLACES_IN_BYTE = [tuple(bit for bit in range(8) if byte >> bit & 1) for byte in range(256)]


def places_in(mask: int) -> list[int]:
    """The members of a set, in order."""
    content = mask.to_bytes((mask.bit_length() + 7) // 8, "little")
    return [start * 8 + bit for start, byte in enumerate(content) if byte for bit in _PLACES_IN_BYTE[byte]]
