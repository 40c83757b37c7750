"""Facts about the compact set of keys."""

from __future__ import annotations

import sys
from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st

from asyncgen.run.key_set import KeySet

KEYS = st.binary(min_size=16, max_size=16)


def key(number: int) -> bytes:
    return blake2b(number.to_bytes(8, "big"), digest_size=16).digest()


@given(added=st.lists(KEYS), asked=st.lists(KEYS), expected=st.integers(0, 3000))
def test_it_holds_what_was_added_as_a_set_does(added: list[bytes], asked: list[bytes], expected: int) -> None:
    keys, model = KeySet(expected), set[bytes]()
    for each in added:
        assert keys.add(each) == (each[:8] not in model)
        model.add(each[:8])
    assert len(keys) == len(model)
    assert all(each in keys for each in added)
    assert [each in keys for each in asked] == [each[:8] in model for each in asked]


@given(
    batches=st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3), unique=True), max_size=5),
    expected=st.integers(0, 3000),
)
def test_many_added_at_once_are_held_as_if_added_one_by_one(batches: list[list[int]], expected: int) -> None:
    keys, model = KeySet(expected), set[int]()
    for batch in batches:
        numbers = [number or 1 for number in batch]  # 0 and 1 are one key
        is_new = len(set(numbers)) == len(numbers) and not model & set(numbers)
        assert keys.add_all(batch) == is_new
        if not is_new:
            return
        model |= set(numbers)
        assert len(keys) == len(model)
        assert all(map(keys.has, batch))


def test_many_added_at_once_find_room() -> None:
    keys = KeySet(10)
    assert keys.add_all(range(1, 5000))
    assert keys.add_all(range(5000, 20_000))
    assert len(keys) == 19_999
    assert all(map(keys.has, range(1, 20_000)))
    assert not keys.has(20_000)
    assert not keys.add_all([30_000, 7])


def test_more_keys_than_expected_are_held_all_the_same() -> None:
    keys = KeySet(10)
    for number in range(20_000):
        assert keys.add(key(number))
    assert len(keys) == 20_000
    assert all(key(number) in keys for number in range(20_000))
    assert not any(key(number) in keys for number in range(20_000, 30_000))


def test_keys_that_want_the_same_slot_do_not_hide_each_other() -> None:
    keys = KeySet()
    crowd = [(number * 2048 + 1023).to_bytes(8, "big") + bytes(8) for number in range(500)]
    for each in crowd:
        assert keys.add(each)
    assert all(each in keys for each in crowd)


def test_the_key_of_zeros_is_a_key_like_any_other() -> None:
    keys = KeySet()
    assert bytes(16) not in keys
    assert keys.add(bytes(16))
    assert bytes(16) in keys


def test_a_key_takes_about_sixteen_bytes() -> None:
    rows = 100_000
    keys = KeySet(rows)
    for number in range(rows):
        keys.add(key(number))
    assert sys.getsizeof(keys._slots) <= 17 * rows
