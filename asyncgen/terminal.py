"""Text from outside, made safe to show on a terminal.

Owns what is taken out. Does not know where the text is shown, and never changes what is stored.
"""

from __future__ import annotations

import re

# C0 but tab and newline, DEL, C1, and the characters that reorder what stands around them.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


def clean(text: str) -> str:
    """Take control characters, bidirectional overrides and lone surrogates out of `text`.

    What a model or a server sends could otherwise move the cursor, set the window's title or hide words.
    """
    return _UNSAFE.sub("", text)


def one_line(text: str, width: int) -> str:
    """`text`, cleaned, on one line of at most `width` characters."""
    line = " ".join(clean(text).split())
    return line if len(line) <= width else line[: max(width - 1, 0)] + "…"
