"""What an answer must satisfy to become a training sample.

Owns the checks and their names. Does not know what becomes of an answer that fails one.
"""

from __future__ import annotations

import re

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
        self._limits = [
            (name, measure, limit)
            for name, measure, limit in (
                ("max_sentences", count_sentences, checks.max_sentences),
                ("max_words", lambda text: len(text.split()), checks.max_words),
                ("max_characters", len, checks.max_characters),
            )
            if limit is not None
        ]
        self._wanted = [(f"must_match: {pattern}", re.compile(pattern)) for pattern in checks.must_match]
        self._unwanted = [(f"must_not_match: {pattern}", re.compile(pattern)) for pattern in checks.must_not_match]

    def failures(self, text: str) -> list[str]:
        """The names of the checks that `text` does not pass, in the job file's order; empty when it passes all."""
        failed = [name for name, measure, limit in self._limits if measure(text) > limit]
        failed += [name for name, pattern in self._wanted if not pattern.search(text)]
        return failed + [name for name, pattern in self._unwanted if pattern.search(text)]
