"""JSON values as the text that the legacy tool made of them.

Owns two of its habits, kept because the bytes of the file depend on them: a number's fraction is read to 15
digits and scaled by an inexact power of ten (the JSON reader of pandas 1.5.3), and a column's numbers become
text after the whole column has become one type, so that one missing cell turns `1` into "1.0" and itself into
"nan".
"""

from __future__ import annotations

import math
from enum import Flag, auto
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Kind(Flag):
    """What was seen in a column."""

    NOTHING = 0
    TEXT = auto()
    INTEGER = auto()
    REAL = auto()
    NULL = auto()
    MISSING = auto()
    OTHER = auto()
    NEGATIVE = auto()
    UNSIGNED = auto()
    HUGE = auto()


class Absent:
    """Stands where an object has no such key."""


ABSENT: Final = Absent()
_DIGITS = 15
_INT64_MAX = 2**63 - 1
_UINT64_MAX = 2**64 - 1


def read_number(text: str) -> float:
    """The legacy reader's value of a JSON number that has a fraction or an exponent."""
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = fraction[:_DIGITS]
    scaled = float(int(fraction or 0)) * float(f"1e-{len(fraction)}")
    value = abs(float(whole)) + scaled
    if exponent:
        value = value * _power(int(exponent))
    return -value if whole.startswith("-") else value


def _power(exponent: int) -> float:
    try:
        return math.pow(10.0, exponent)
    except OverflowError:
        return math.inf


def read_constant(name: str) -> float | None:
    """NaN and the infinities, which are no JSON but which the legacy tool took."""
    return None if name == "NaN" else float(name)


def kind_of(value: Any) -> Kind:
    """Which kind of cell a JSON value is."""
    if isinstance(value, str):
        return Kind.TEXT
    if value is None:
        return Kind.NULL
    if isinstance(value, Absent):
        return Kind.MISSING
    if isinstance(value, bool):
        return Kind.OTHER
    if isinstance(value, int):
        return Kind.INTEGER | _extent_of(value)
    return Kind.REAL if isinstance(value, float) else Kind.OTHER


def _extent_of(value: int) -> Kind:
    """Which machine type an integer fits."""
    if value < 0:
        return Kind.NEGATIVE if value >= -_INT64_MAX - 1 else Kind.HUGE
    if value <= _INT64_MAX:
        return Kind.NOTHING
    return Kind.UNSIGNED if value <= _UINT64_MAX else Kind.HUGE


def kinds_of(values: Iterable[Any]) -> Kind:
    """Every kind that occurs among the values."""
    seen = Kind.NOTHING
    for value in values:
        seen |= kind_of(value)
    return seen


def as_text(kinds: Kind) -> Callable[[Any], str]:
    """How the cells of a column in which `kinds` occur become text."""
    if kinds & (Kind.TEXT | Kind.OTHER | Kind.HUGE):
        return _object_text
    if Kind.UNSIGNED in kinds and Kind.NEGATIVE in kinds:
        return _object_text  # no machine type holds both, so that the cells stayed as they were
    if kinds & (Kind.INTEGER | Kind.REAL):
        return _real_text if kinds & (Kind.REAL | Kind.NULL | Kind.MISSING) else str
    return _object_text if kinds == Kind.NULL else _real_text


def _object_text(value: Any) -> str:
    return "nan" if isinstance(value, Absent) else str(value)


def _real_text(value: Any) -> str:
    return "nan" if value is None or isinstance(value, Absent) else str(float(value))
