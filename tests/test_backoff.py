"""asyncgen.backoff: waits named by servers, and drawn by us."""

from __future__ import annotations

from email.utils import formatdate
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.backoff import full_jitter_s, server_wait_s

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": formatdate(NOW + 30, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(NOW - 30, usegmt=True)}, 0.0),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "whenever"}, None),
    ],
)
def test_a_servers_wait_is_read_in_every_form(headers: dict[str, str], expected: float | None) -> None:
    assert server_wait_s(headers, now=NOW) == expected


@given(st.text(), st.text())
def test_no_header_breaks_the_reading(milliseconds: str, seconds: str) -> None:
    wait_s = server_wait_s({"retry-after-ms": milliseconds, "retry-after": seconds}, now=NOW)
    assert wait_s is None or wait_s >= 0


@given(st.integers(0, 10_000), st.integers())
def test_the_delay_stays_between_zero_and_its_cap(attempt: int, seed: int) -> None:
    assert 0 <= full_jitter_s(attempt, Random(seed), base_s=0.5, cap_s=8) <= min(2.0 ** min(attempt, 9) / 2, 8)
