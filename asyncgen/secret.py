"""A key that cannot be printed by accident.

Owns the wrapping of secrets, and taking them out of texts that came from outside. Does not know where they come from or
whom they are shown to.
"""

from __future__ import annotations

import json
from typing import Never
from urllib.parse import quote, quote_plus

_REDACTED = "***"


class Secret:
    """A string whose repr and str never show it; `reveal` is called where it goes on the wire, nowhere else.

    Args:
        value: the secret itself.
        source: where it was found, such as "OPENAI_API_KEY", for messages.
    """

    __slots__ = ("_forms", "_value", "source")

    def __init__(self, value: str, source: str) -> None:
        self._value = value
        # As it is, percent-encoded as an address holds it, and escaped as JSON holds it; mostly they are one.
        self._forms = {value, quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1]} if value else set()
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


def redacted(text: str, secret: Secret | None) -> str:
    """A text from outside without the secret that it may quote.

    To be called on the whole text, before it is cut: a part of a secret that a cut leaves would not be found any more.

    Args:
        text: of a reply or a header, as it came.
        secret: None where none was sent.

    Returns:
        The text, the secret replaced as it is, percent-encoded (as an address holds it) and escaped (as JSON holds it).
    """
    if secret is not None:
        for form in secret._forms:  # noqa: SLF001 - no other module is to see them
            text = text.replace(form, _REDACTED)
    return text
