"""From a row to its line: a record of its answer, or a failure with the reason.

Owns what goes into both. Does not write, and does not decide which of the two a row becomes.
"""

from __future__ import annotations

from collections.abc import Callable

from asyncgen.generate.completer import AttemptError
from asyncgen.generate.retry import Row
from asyncgen.job.checks import AnswerChecks
from asyncgen.job.requests import RequestGrid
from asyncgen.records import Failure, FailureError, Record


class RecordMaker:
    """Makes the records of answers.

    Args:
        grid: of their requests.
        checks: answers are judged by.
        wall: Unix seconds.
    """

    def __init__(self, grid: RequestGrid, checks: AnswerChecks, wall: Callable[[], float]) -> None:
        # Looked up once, and not for every answer.
        self._names = grid.names
        self._model = grid.model
        self._render_sample = grid.sample.render
        self._opening = grid.opening if grid.has_openings else None
        self._failures = checks.failures
        self._wall = wall

    def record(self, row: Row) -> Record:
        """The record of the row's answer; it must have one."""
        answer, request = row.answer, row.request
        assert answer is not None
        completion = answer.text
        if self._opening is not None and completion:
            completion = whole(self._opening(request), completion)
        variables = dict(zip(self._names, request.values, strict=True))
        return Record(
            key=request.key.hex(),
            index=request.index,
            repeat=request.repeat,
            variables=variables,
            prompt=self._render_sample(variables),
            completion=completion,
            model=answer.model or self._model,
            finish_reason=answer.finish_reason,
            usage=row.usage,
            attempts=row.attempts,
            check_failures=self._failures(completion),
            latency_s=int(answer.latency_s * 10_000) / 10_000,
            created=int(self._wall()),
            request_id=answer.request_id,
            reasoning=answer.reasoning,
            tool_calls=answer.tool_calls,
            asked=row.asked,
        )


def failure_of(row: Row, grid: RequestGrid, error: AttemptError, now: float) -> Failure:
    """The failure of a row whose last attempt ended in `error`; `now` in Unix seconds."""
    request = row.request
    return Failure(
        key=request.key.hex(),
        index=request.index,
        repeat=request.repeat,
        variables=grid.variables(request),
        error=FailureError(type=error.type, code=error.code, status=error.status, message=error.message),
        attempts=row.attempts,
        maybe_paid=row.maybe_paid,
        created=int(now),
        request_id=error.request_id,
    )


def whole(opening: str, text: str) -> str:
    """The answer with the opening that it was given: some servers repeat it, others only go on from it."""
    if not opening:
        return text
    text = text.rstrip()
    if text.lstrip().startswith(opening):
        return text.lstrip()
    joint = "" if text[:1].isspace() or not text[:1].isalnum() or opening[-1:].isspace() else " "
    return f"{opening}{joint}{text}"
