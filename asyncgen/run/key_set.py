"""A set of request keys in some 16 bytes a key, where a Python set takes over 100.

An open-addressing table over the first 64 bits of the 128-bit keys. Two keys that agree in these bits count as one: the
probability of any such pair is 3 in 10^8 among a million keys, and 3 in 10^4 among a hundred million.
"""

from __future__ import annotations

from array import array
from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_SMALLEST = 1024
_FULLEST = 0.7  # linear probing slows down steeply beyond
_SPARE = 2.0  # slots for each key at creation and after growing
_first_bits: Callable[[bytes], tuple[int]] = Struct(">Q8x").unpack  # half the time of int.from_bytes


class KeySet:
    """A set of keys that only grows.

    Args:
        expected: number of keys to make room for; more can be added.
    """

    __slots__ = ("_capacity", "_count", "_room", "_slots")

    def __init__(self, expected: int = 0) -> None:
        self._count = 0
        self._resize(expected)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: bytes) -> bool:
        return self.has(number_of(key))

    def has(self, number: int) -> bool:
        """Check for a key by its number.

        Args:
            number: first 64 bits of the key, as `number_of` gives them.

        Returns:
            Whether a key with these bits was added.
        """
        slots, capacity = self._slots, self._capacity
        number = number or 1  # 0 marks an empty slot, here and below
        slot = number % capacity
        while found := slots[slot]:
            if found == number:
                return True
            slot = slot + 1 if slot + 1 < capacity else 0
        return False

    def add(self, key: bytes) -> bool:
        """Add a key.

        Args:
            key: 16 bytes.

        Returns:
            False if it was already there.
        """
        slots, capacity = self._slots, self._capacity  # `add_number` inlined: called for every row
        (number,) = _first_bits(key)
        number = number or 1
        slot = number % capacity
        while found := slots[slot]:
            if found == number:
                return False
            slot = slot + 1 if slot + 1 < capacity else 0
        slots[slot] = number
        self._count = count = self._count + 1
        if count > self._room:
            self._make_room(count // 4)
        return True

    def add_number(self, number: int) -> bool:
        """Add a key by its number.

        Args:
            number: first 64 bits of the key, as `number_of` gives them.

        Returns:
            False if it was already there.
        """
        slots, capacity = self._slots, self._capacity  # inlined too: called for every sample
        number = number or 1
        slot = number % capacity
        while found := slots[slot]:
            if found == number:
                return False
            slot = slot + 1 if slot + 1 < capacity else 0
        slots[slot] = number
        self._count = count = self._count + 1
        if count > self._room:
            self._make_room(count // 4)
        return True

    def add_each(self, numbers: Sequence[int]) -> list[bool]:
        """Add many keys, in half the time of one at a time.

        Args:
            numbers: first 64 bits of each key.

        Returns:
            Of each whether it was not there yet.
        """
        if self._count + len(numbers) > self._room:
            self._make_room(len(numbers) + self._count // 4)
        slots, capacity, added = self._slots, self._capacity, []
        for number in numbers:
            number = number or 1  # noqa: PLW2901 - as everywhere here
            slot = number % capacity
            while (found := slots[slot]) and found != number:
                slot = slot + 1 if slot + 1 < capacity else 0
            slots[slot] = number
            added.append(not found)
        self._count += added.count(True)
        return added

    def add_all(self, numbers: Sequence[int]) -> bool:
        """Add many keys, in half the time of one at a time.

        Args:
            numbers: first 64 bits of each key.

        Returns:
            False if one was already there; the others may then be added in part.
        """
        if self._count + len(numbers) > self._room:
            self._make_room(len(numbers) + self._count // 4)
        return self._fill(numbers)

    def _fill(self, numbers: Iterable[int]) -> bool:
        slots, capacity, added = self._slots, self._capacity, 0
        for number in numbers:
            number = number or 1  # noqa: PLW2901 - as everywhere here
            slot = number % capacity
            while found := slots[slot]:
                if found == number:
                    self._count += added
                    return False
                slot = slot + 1 if slot + 1 < capacity else 0
            slots[slot] = number
            added += 1
        self._count += added
        return True

    def _make_room(self, more: int) -> None:
        numbers = filter(None, self._slots)
        self._resize(self._count + more)
        self._count = 0
        self._fill(numbers)

    def _resize(self, expected: int) -> None:
        self._capacity = max(int(expected * _SPARE), _SMALLEST)
        self._room = int(self._capacity * _FULLEST)
        self._slots = array("Q", [0]) * self._capacity


def number_of(key: bytes) -> int:
    """Return the first 64 bits of a key.

    Args:
        key: 16 bytes.
    """
    (number,) = _first_bits(key)
    return number
