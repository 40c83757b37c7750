"""How far an invocation of the batch engine is, and whether it is to send more.

Owns what an ended batch means for the rest: go on, send what it did not answer again, send nothing more. Does no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass

from asyncgen.backoff import is_billing_code
from asyncgen.errors import AsyncgenError, IncompleteError, QuotaError
from asyncgen.generate.batch.api import RemoteBatch
from asyncgen.generate.batch.join import Joined
from asyncgen.generate.completer import StopReason
from asyncgen.generate.explain import provider_error
from asyncgen.run_state import BatchState

_MOST_PASSES = 3  # over the grid: rows that never come to an outcome are not sent for ever
_QUEUE_CODES = frozenset({"token_limit_exceeded"})  # OpenAI's word for too many enqueued tokens
_SHOWN_PROBLEMS = 3


@dataclass(slots=True)
class Course:
    """The state of one invocation.

    Attributes:
        passes: over the grid.
        open_again: rows that collected batches did not answer, since the last pass began.
        queue_is_full: until a batch of ours ends.
        stopped: why nothing more is sent, where there is a word for it.
        error: what keeps more from being sent; None while nothing does.
    """

    passes: int = 1
    open_again: int = 0
    queue_is_full: bool = False
    stopped: StopReason | None = None
    error: AsyncgenError | None = None

    def stop(self, reason: StopReason | None, error: AsyncgenError) -> None:
        """Send nothing more; what is under way is still collected. The first reason stands."""
        if self.error is None:
            self.stopped, self.error = reason, error

    def begin_pass(self) -> bool:
        """Go over the grid once more for rows that came to no outcome; False where that is no use."""
        if not self.open_again or self.passes == _MOST_PASSES:
            return False
        self.passes, self.open_again = self.passes + 1, 0
        return True

    def note_collected(self, batch: BatchState, remote: RemoteBatch, joined: Joined) -> None:
        """Take in what a batch came to."""
        self.open_again += joined.open
        if joined.stop is not None:
            self.stop(joined.stop.stop, provider_error(joined.stop, joined.stop.stop))
        elif remote.status == "cancelled":
            what = f"batch {batch.batch_id} was cancelled; {joined.open:,} of its rows have no answer"
            help_text = "the same command asks for them again, in batch or online"
            self.stop(None, IncompleteError(what, help_text=help_text, code="cancelled"))

    def note_refused(self, batch: BatchState, remote: RemoteBatch) -> None:
        """Take in that the provider took nothing of a batch."""
        self.stop(*_refusal(batch, remote))

    def unanswered(self) -> IncompleteError | None:
        """What to say of rows that came to no outcome in all passes."""
        if not self.open_again:
            return None
        return IncompleteError(
            f"{self.open_again:,} rows came to no outcome, though they were sent {self.passes} times",
            help_text="asyncgen generate without --batch   (sends them online, and says what is wrong with each)",
            code="unanswered",
        )


def is_for_a_full_queue(remote: RemoteBatch) -> bool:
    """Was the batch refused since too much is waiting at the provider already?"""
    return any(problem.code in _QUEUE_CODES for problem in remote.refusals)


def _refusal(batch: BatchState, remote: RemoteBatch) -> tuple[StopReason | None, AsyncgenError]:
    """Why a batch was refused, in words for the person who reads it."""
    shown = remote.refusals[:_SHOWN_PROBLEMS]
    lines = [f"line {each.line}: {each.message}" if each.line else each.message or each.code or "" for each in shown]
    cause = "\n".join(lines) or "the provider gives no reason"
    what = f"the provider refused batch {batch.batch_id}"
    if any(is_billing_code(each.code) or each.code in _QUEUE_CODES for each in remote.refusals):
        help_text = "raise the limit at the provider or wait until its queue is empty, then give the same command again"
        return StopReason.QUOTA, QuotaError(what, cause=cause, help_text=help_text)
    help_text = "asyncgen generate without --batch   (sends the rows online, and says what is wrong with each)"
    return None, AsyncgenError(what, cause=cause, help_text=help_text, code="batch_refused")
