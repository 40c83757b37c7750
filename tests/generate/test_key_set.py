"""Facts about the compact set of keys. Run: pytest tests/generate/test_key_set.py."""

from __future__ import annotations

import sys
from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st

from asyncgen.generate.key_set import KeySet

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
