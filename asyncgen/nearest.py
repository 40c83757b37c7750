"""The valid name that was probably meant, for messages about a wrong one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The valid name most like `name`, or None when none is like it."""
    return next(iter(get_close_matches(name, list(names), 1)), None)
