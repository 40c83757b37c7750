"""Convert JSON values to text for prompts: text unchanged, numbers with all digits, anything else as JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson


class NoTextError(ValueError):
    """A value that has no form as text; says why in our words."""


def json_text(value: Any) -> str:
    """A value as compact JSON text, in the order of its keys.

    Raises:
        NoTextError: it is nested too deeply, or holds what JSON has no word for.
    """
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # whole numbers beyond 64 bits, too
        pass
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise NoTextError("nested too deeply") from None
    except (TypeError, ValueError):
        raise NoTextError("not a value that JSON has") from None


def value_text(value: Any) -> str:
    """A value as a prompt shows it: text as it is, a number as JSON writes it, anything else as JSON text.

    Raises:
        NoTextError: a number is not finite or too long, or the value is nested too deeply.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise NoTextError(f"{value} is not a number that can be written")
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return str(value)
        except ValueError:  # Python does not convert them, since it takes quadratic time
            raise NoTextError("a number of more than 4,300 digits") from None
    return json_text(value)
