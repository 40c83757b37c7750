"""What a run has come to, as numbers.

Owns the counts of this invocation and the figures made from them. Does not print, and knows no clock: times go in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_RECENT_S = 10.0


@dataclass(slots=True)
class Progress:
    """Counts that the pool raises as it goes.

    Attributes:
        requests: rows of the job.
        already_done: settled before.
        settled: answers of this invocation.
        failed: rows given up on in this invocation.
        failed_before: rows given up on earlier, and not asked for again.
        twins: rows with the same request as another row; its answer is theirs.
        sent: HTTP calls.
        ended: of them, such that came to an end.
        paused_until: seconds of a monotonic clock, before which nothing is sent, as the server asked; 0 for none.
        retries: of them, such that a row had been tried before.
        rate_limited: calls that the server refused for the rate or its load.
        maybe_paid_twice: rows sent again though the provider may have charged for the call before.
        check_failures: answers that failed the job's checks.
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
    retries: int = 0
    rate_limited: int = 0
    maybe_paid_twice: int = 0
    check_failures: int = 0
    _recent: list[tuple[float, int]] = field(default_factory=list)

    @property
    def in_flight(self) -> int:
        return self.sent - self.ended

    @property
    def done(self) -> int:
        return self.already_done + self.settled + self.twins

    @property
    def left(self) -> int:
        return max(self.requests - self.done - self.failed - self.failed_before, 0)

    def per_second(self, now_s: float) -> float:
        """Rows finished a second, over the last moments; call it a few times a second at most."""
        finished = self.settled + self.failed
        self._recent.append((now_s, finished))
        while len(self._recent) > 2 and self._recent[1][0] < now_s - _RECENT_S:  # noqa: PLR2004 - two make a span
            self._recent.pop(0)
        began_s, before = self._recent[0]
        return (finished - before) / (now_s - began_s) if now_s > began_s else 0.0

    def eta_s(self, per_second: float) -> float | None:
        """Seconds until the end at this rate; None when nothing moves."""
        return self.left / per_second if per_second > 0 else None
