"""What an answer must satisfy to become a training sample.

Owns the checks and their names. Does not know what becomes of an answer that fails one.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from asyncgen.job.model import Checks

# A sentence ends in . ! ? or … (and closing quotes or brackets) before white space or the end; "3.5" does not.
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s|$)")


def count_sentences(text: str) -> int:
    """How many sentences `text` has; a last one without a full stop counts."""
    ends = list(_SENTENCE_END.finditer(text))
    unfinished = bool(text[ends[-1].end() if ends else 0 :].strip())
    return len(ends) + unfinished


class AnswerChecks:
    """A job's checks, compiled once.

    Args:
        checks: the table of the job file; its patterns were found valid when it was loaded.
    """

    def __init__(self, checks: Checks) -> None:
        self.attempts = checks.attempts
        # A check's name, and whether a text fails it; in the order of the job file.
        self._fails: list[tuple[str, Callable[[str], object]]] = []
        self._add_limit("max_sentences", count_sentences, checks.max_sentences)
        self._add_limit("max_words", lambda text: len(text.split()), checks.max_words)
        self._add_limit("max_characters", len, checks.max_characters)
        for pattern in checks.must_match:
            self._add_wanted(pattern)
        for pattern in checks.must_not_match:
            self._fails.append((f"must_not_match: {pattern}", re.compile(pattern).search))

    def failures(self, text: str) -> list[str]:
        """The names of the checks that `text` does not pass, in the job file's order; empty when it passes all."""
        return [name for name, fails in self._fails if fails(text)] if self._fails else []

    def _add_limit(self, name: str, measure: Callable[[str], int], limit: int | None) -> None:
        if limit is not None:
            self._fails.append((name, lambda text: measure(text) > limit))

    def _add_wanted(self, pattern: str) -> None:
        search = re.compile(pattern).search
        self._fails.append((f"must_match: {pattern}", lambda text: not search(text)))
