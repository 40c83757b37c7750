"""Counts of this invocation (sent, in flight, settled, failed), and figures made from them.

Times are arguments. Display is left to the observer.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from asyncgen.generate.http.completer import RAISE_LIMIT

if TYPE_CHECKING:
    from asyncgen.generate.http.completer import AttemptError
    from asyncgen.run.records import Record

_RECENT_S = 10.0
_MOST_REASONS = 50
_ENOUGH_ROWS = 5  # with fewer, the time left cannot be estimated
_WHOLE = frozenset({"stop", "tool_calls", ""})  # finish reasons of answers that are not cut off
_CUT_OFF = "is cut off at the token limit"
REMEDY_FOR_SIMULATED = (
    "simulated answers contain no values of the row: to test the stages, remove the checks that need them"
)


class Progress(msgspec.Struct):
    """Counts of a generation, updated by the engine.

    Attributes:
        requests: number of rows in the job.
        already_done: rows settled in earlier invocations.
        settled: answers of this invocation.
        failed: rows given up on in this invocation.
        failed_before: rows given up on earlier, and not asked for again.
        twins: duplicates: rows that share the answer of another row with the same request.
        sent: HTTP calls.
        ended: HTTP calls that have an outcome.
        paused_until: seconds of the loop's clock before which nothing is sent; 0 for no pause.
        pause_cause: why sending is paused, for the user.
        sent_at: seconds of the loop's clock at which the last request was sent; 0 before the first.
        waits_for: the limits that requests wait for now; "" if they wait for none.
        began_at: seconds of the loop's clock at which sending began; 0 if unknown.
        trouble: the error of the last attempts, which are retried; "" after an answer.
        trouble_since: seconds of the loop's clock at which these errors began.
        latest: the last answer that was settled; None before the first.
        retries: HTTP calls for rows that were attempted before.
        rate_limited: calls refused for a rate limit or overload.
        maybe_paid_twice: rows sent again though the provider may have charged for the call before.
        check_failures: answers that failed the job's checks.
        usable: answers of this invocation that a dataset can take.
        failed_checks: name of a check to the number of answers that failed it.
        unusable: reason to the number of settled answers that cannot be used.
        failures: reason to the number of rows given up on.
        remedies: reason to what the user can do about it.
    """

    requests: int = 0
    already_done: int = 0
    settled: int = 0
    failed: int = 0
    failed_before: int = 0
    twins: int = 0
    sent: int = 0
    ended: int = 0
    paused_until: float = 0.0
    pause_cause: str = ""
    sent_at: float = 0.0
    waits_for: str = ""
    began_at: float = 0.0
    trouble: str = ""
    trouble_since: float = 0.0
    latest: Record | None = None
    retries: int = 0
    rate_limited: int = 0
    maybe_paid_twice: int = 0
    check_failures: int = 0
    usable: int = 0
    failed_checks: Counter[str] = msgspec.field(default_factory=Counter)
    unusable: Counter[str] = msgspec.field(default_factory=Counter)
    failures: Counter[str] = msgspec.field(default_factory=Counter)
    remedies: dict[str, str] = msgspec.field(default_factory=dict)
    _recent: list[tuple[float, int]] = msgspec.field(default_factory=list)

    @property
    def in_flight(self) -> int:
        """Requests sent and not answered yet."""
        return self.sent - self.ended

    @property
    def done(self) -> int:
        """Rows that have an answer, duplicates and those of earlier invocations included."""
        return self.already_done + self.settled + self.twins

    @property
    def left(self) -> int:
        """Rows still to be asked for."""
        return max(self.requests - self.done - self.failed - self.failed_before, 0)

    def add_earlier(self, earlier: Progress) -> None:
        """Add the counts of an earlier part of this invocation, whose rows count as done already.

        Args:
            earlier: its counts.
        """
        self.already_done = earlier.already_done
        self.failed_before = earlier.failed_before
        for name in ("settled", "failed", "sent", "ended", "retries", "rate_limited", "maybe_paid_twice",
                     "check_failures", "usable"):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(earlier, name))
        for name in ("failed_checks", "unusable", "failures"):
            getattr(self, name).update(getattr(earlier, name))
        self.remedies = earlier.remedies | self.remedies

    def count_answer(self, record: Record) -> None:
        """Count a settled answer as usable or not.

        Args:
            record: the answer.
        """
        self.latest = record
        if not record.check_failures and record.finish_reason in _WHOLE:
            self.usable += 1
            return
        reason = f"fails the check {record.check_failures[0]}" if record.check_failures else _CUT_OFF
        if not record.check_failures and record.finish_reason != "length":
            reason = f"ended with {record.finish_reason!r}"
        self.unusable[reason] += 1
        if reason == _CUT_OFF:
            self.remedies[reason] = RAISE_LIMIT

    def count_check_failures(self, record: Record) -> None:
        """Count an answer that failed checks, whether it is asked for again or not.

        Args:
            record: the answer.
        """
        self.check_failures += 1
        self.failed_checks.update(record.check_failures)

    def count_failure(self, error: AttemptError) -> None:
        """Count a row that was given up on.

        Args:
            error: of its last attempt.
        """
        self.failed += 1
        reason = error.message or error.type
        if len(self.failures) >= _MOST_REASONS and reason not in self.failures:
            reason = error.type  # messages that quote their prompt are all different
        self.failures[reason] += 1
        if error.remedy:
            self.remedies[reason] = error.remedy

    def note_trouble(self, cause: str, now_s: float) -> None:
        """Note that an attempt failed and will be retried.

        Args:
            cause: the error, for the user.
            now_s: seconds of the loop's clock.
        """
        self.trouble_since = self.trouble_since if self.trouble else now_s
        self.trouble = cause

    def are_useless(self, count: int) -> bool:
        """Return whether the first answers all failed their checks.

        Args:
            count: number of first answers.
        """
        return self.check_failures >= count and not self.usable

    def per_second(self, now_s: float) -> float:
        """Compute the rows finished per second, over the last ten seconds. Call it a few times a second at most.

        Args:
            now_s: seconds of the loop's clock.

        Returns:
            The rate; 0 at the first call.
        """
        finished = self.settled + self.failed
        self._recent.append((now_s, finished))
        while len(self._recent) > 2 and self._recent[1][0] < now_s - _RECENT_S:  # noqa: PLR2004 - two make a span
            self._recent.pop(0)
        began_s, before = self._recent[0]
        return (finished - before) / (now_s - began_s) if now_s > began_s else 0.0

    def eta_s(self, per_second: float) -> float | None:
        """Estimate the time that is left.

        Args:
            per_second: rows finished per second.

        Returns:
            Seconds; None if the rate is 0, or too few rows are finished for an estimate.
        """
        is_early = self.settled + self.failed < min(_ENOUGH_ROWS, self.requests)
        return None if is_early or per_second <= 0 else self.left / per_second
