"""A key that cannot be printed by accident.

Owns the wrapping of secrets. Does not know where they come from or whom they are shown to.
"""

from __future__ import annotations

from typing import Never


class Secret:
    """A string whose repr and str never show it; `reveal` is called where it goes on the wire, nowhere else.

    Args:
        value: the secret itself.
        source: where it was found, such as "OPENAI_API_KEY", for messages.
    """

    __slots__ = ("_value", "source")

    def __init__(self, value: str, source: str) -> None:
        self._value = value
        self.source = source

    def reveal(self) -> str:
        return self._value

    def hint(self) -> str:
        """Enough to tell two keys apart: the last four characters of a long one."""
        return f"…{self._value[-4:]}" if len(self._value) >= 12 else "(short)"  # noqa: PLR2004 - shorter keys would be half shown

    def __repr__(self) -> str:
        return f"Secret(*** from {self.source})"

    __str__ = __repr__

    def __reduce__(self) -> Never:
        raise TypeError("a Secret is not to be written anywhere")
