"""The checks that an answer must pass to become a training sample.

What happens to an answer that fails is left to the pool and the dataset.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from asyncgen.job.answers import AS_TEXT, AnswerReader
from asyncgen.job.model import Checks
from asyncgen.job.template import parse

# A sentence ends in . ! ? or … (and closing quotes or brackets) before white space or the end; "3.5" does not.
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s|$)")

Variables = Mapping[str, str]


def count_sentences(text: str) -> int:
    """Number of sentences in `text`; a last one without a full stop counts."""
    ends = list(_SENTENCE_END.finditer(text))
    unfinished = bool(text[ends[-1].end() if ends else 0 :].strip())
    return len(ends) + unfinished


class AnswerChecks:
    """A job's checks, compiled once.

    Args:
        checks: the table of the job file; its patterns were found valid when it was loaded.
        answers: reads the job's answers; one that is not of the job's form fails a check, too.
    """

    def __init__(self, checks: Checks, answers: AnswerReader = AS_TEXT) -> None:
        self.attempts = checks.attempts
        self._answers = answers
        # A check's name, and whether a text fails it; in the order of the job file.
        self._fails: list[tuple[str, Callable[[str, Variables], object]]] = []
        self._add_limit("max_sentences", count_sentences, checks.max_sentences)
        self._add_limit("max_words", _count_words, checks.max_words)
        self._add_limit("max_characters", len, checks.max_characters)
        if (least := checks.min_words) is not None:
            self._fails.append(("min_words", lambda text, _: _count_words(text) < least))
        for wanted in checks.must_contain:
            self._add_contained(wanted)
        for pattern in checks.must_match:
            self._add_wanted(pattern)
        for pattern in checks.must_not_match:
            self._add_unwanted(pattern)

    def failures(self, text: str, variables: Variables) -> list[str]:
        """The names of the checks that `text` does not pass; empty when it passes all.

        Args:
            text: the answer as it is.
            variables: of its row.
        """
        failed = list(self._answers.read(text).failures) if self._answers.reads_json else []
        if self._fails:
            failed += [name for name, fails in self._fails if fails(text, variables)]
        return failed

    def _add_limit(self, name: str, measure: Callable[[str], int], limit: int | None) -> None:
        if limit is not None:
            self._fails.append((name, lambda text, _: measure(text) > limit))

    def _add_wanted(self, pattern: str) -> None:
        search = re.compile(pattern).search
        self._fails.append((f"must_match: {pattern}", lambda text, _: not search(text)))

    def _add_unwanted(self, pattern: str) -> None:
        search = re.compile(pattern).search
        self._fails.append((f"must_not_match: {pattern}", lambda text, _: search(text)))

    def _add_contained(self, wanted: str) -> None:
        template = parse(wanted)

        def fails(text: str, variables: Variables) -> bool:
            try:
                return template.render(variables) not in text
            except KeyError:  # a row of an earlier version of the job
                return True

        self._fails.append((f"must_contain: {wanted}", fails))


def _count_words(text: str) -> int:
    return len(text.split())
