"""asyncgen.job.cells: values as text, the same whatever is installed."""

from __future__ import annotations

import json
import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.job.cells import stable_json

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | FLOATS | st.text(),
    lambda each: st.lists(each) | st.dictionaries(st.text(), each),
)


@given(VALUES)
def test_stable_json_is_read_back_as_the_value(value: object) -> None:
    assert json.loads(stable_json(value)) == value


@given(FLOATS.filter(lambda number: abs(number) >= 1e16))
def test_a_large_number_is_written_as_python_writes_it(number: float) -> None:
    assert stable_json(number) == repr(number)


@given(VALUES)
def test_both_forms_of_an_exponent_become_one(value: object) -> None:
    """The one that orjson 3.12 writes, and the one before: a key must not change with the library."""

    def older(value: object, option: int | None = None) -> bytes:
        return _unsigned(value).encode("utf-8")

    with pytest.MonkeyPatch.context() as patch:
        newer = stable_json(value)
        patch.setattr(orjson, "dumps", older)
        assert stable_json(value) == newer


_dumps = orjson.dumps


def _unsigned(value: object) -> str:
    """JSON as orjson wrote it before 3.12: no sign in a positive exponent."""
    if isinstance(value, float) and abs(value) >= 1e16 and math.isfinite(value):
        return repr(value).replace("e+", "e")
    if isinstance(value, list):
        return "[" + ",".join(map(_unsigned, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_unsigned(name)}:{_unsigned(each)}" for name, each in value.items()) + "}"
    return _dumps(value).decode()


def test_an_exponent_in_a_text_stays_as_it_is() -> None:
    assert stable_json({"1e22": 'flat 2e3 "1e5" \\'}) == '{"1e22":"flat 2e3 \\"1e5\\" \\\\"}'
