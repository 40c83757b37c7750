"""Join the answers of a batch with its rows, and settle them in the journal.

Answers come in any order. Each row becomes a record, a failure, or open again, with the retry limits of the online
pool. Idempotent: a settled row stays as it is. Keeps an index of the lines in memory, never the lines.
"""

from __future__ import annotations

import asyncio
import codecs
import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from asyncgen.generate.batch.batched_keys import BatchRow, read_batch_rows
from asyncgen.generate.batch.files import BatchFiles, key_of_line, read_output_line
from asyncgen.generate.http.completer import Answer, AttemptError, ErrorClass
from asyncgen.generate.pool.settle import is_used_up, with_opening
from asyncgen.run.records import NO_USAGE, Failure, FailureError, Record
from asyncgen.run.state import RowAttempts
from asyncgen.run.whole_file import disk_error, open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from asyncgen.generate.journal.journal import Journal
    from asyncgen.job.answers import AnswerChecks
    from asyncgen.job.requests import RequestGrid
    from asyncgen.providers.endpoint import Secret

_LONGEST_LINE = 16 * 1024 * 1024  # as for an online reply
_TURN_ROWS = 200
Place = tuple[int, int]  # number of the file, offset of the line


_UNANSWERED = AttemptError(
    kind=ErrorClass.RETRY, type="unanswered", message="the batch has no answer for this row", maybe_paid=True
)


@dataclass(slots=True)
class JoinResult:
    """The result of collecting a batch.

    Attributes:
        answered: rows that became records now, without those of an earlier interrupted join.
        failed: rows given up on now.
        open: rows without an outcome (expired, cancelled, refused for now), which may be asked for again.
        lost: rows, failed or open, that may have been charged without reported usage.
        unread: lines that match no row of the batch, or are too long to be an answer.
        stop: the first error that every row would get; None if there is none.
    """

    answered: int = 0
    failed: int = 0
    open: int = 0
    lost: int = 0
    unread: int = 0
    stop: AttemptError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJoiner:
    """Saves the answers of a downloaded batch.

    Attributes:
        journal: of the run.
        grid: of the job as it is now; the rows of the batch may be those of an earlier form.
        checks: applied to the answers.
        secret: removed from the provider's texts.
    """

    journal: Journal
    grid: RequestGrid
    checks: AnswerChecks
    secret: Secret | None

    async def join(self, files: BatchFiles, model: str, *, now: int, is_cancelled: bool = False) -> JoinResult:
        """Keep every answer and error.

        Args:
            files: of the batch; an output or error file that is not there has no lines.
            model: that was asked, for answers that name none.
            now: Unix seconds.
            is_cancelled: what was not done was not to be done: it is not a failed attempt.

        Raises:
            DiskError: the journal cannot be written, or a file not be read.
        """
        joined = JoinResult()
        with ExitStack() as stack:
            try:
                downloaded = [stack.enter_context(_open(path)) for path in _there(files)]
                index = _index(downloaded, joined)
                for number, row in enumerate(read_batch_rows(files.rows)):
                    place = index.pop(bytes.fromhex(row.key), None)
                    self._keep(row, self._outcome(downloaded, place, is_cancelled), model, now, joined)
                    if number % _TURN_ROWS == 0:
                        await asyncio.sleep(0)  # so that Ctrl-C is handled
            except OSError as error:
                raise disk_error(f"the answers of batch {files.intent} could not be read", error) from error
        joined.unread += len(index)
        return joined

    def _outcome(
        self, downloaded: Sequence[BinaryIO], place: Place | None, is_cancelled: bool
    ) -> Answer | AttemptError | None:
        """The outcome of a row; None if there is none."""
        if place is None:
            return None if is_cancelled else _UNANSWERED
        number, offset = place
        downloaded[number].seek(offset)
        line = downloaded[number].readline(_LONGEST_LINE)
        outcome = read_output_line(line, secret=self.secret, sends_tools=self.grid.sends_tools)
        is_undone = isinstance(outcome, AttemptError) and outcome.kind is ErrorClass.RETRY and not outcome.maybe_paid
        return None if is_undone and is_cancelled else outcome

    def _keep(
        self, row: BatchRow, outcome: Answer | AttemptError | None, model: str, now: int, joined: JoinResult
    ) -> None:
        key = bytes.fromhex(row.key)
        if self.journal.has_record(key):
            return
        if isinstance(outcome, Answer):
            self.journal.claim(key)
            self.journal.settle([self._record(row, outcome, model, now)], in_batch=True)
            joined.answered += 1
        elif outcome is None:
            joined.open += 1
        elif outcome.kind is ErrorClass.STOP:
            joined.open += 1
            joined.stop = joined.stop or outcome
        elif self.journal.tried_before(key).attempts > row.attempts:  # noted by a join that was interrupted
            joined.open += not self.journal.is_left(key)
        else:
            self._note(row, outcome, now, joined)

    def _note(self, row: BatchRow, error: AttemptError, now: int, joined: JoinResult) -> None:
        """The row has no answer: it is given up on, or open again with one more attempt to its name."""
        tried = RowAttempts(
            attempts=row.attempts + 1,
            failed=row.failed + (error.kind is not ErrorClass.WAIT),
            maybe_paid=row.maybe_paid + error.maybe_paid,
            forgiven=row.forgiven,
        )
        joined.lost += error.maybe_paid and error.usage == NO_USAGE
        if _is_final(error) or is_used_up(tried):
            self.journal.fail(_failure(row, error, tried, now), error.usage, in_batch=True)
            joined.failed += 1
        else:
            self.journal.note_attempts(bytes.fromhex(row.key), tried, error.usage, in_batch=True)
            joined.open += 1

    def _record(self, row: BatchRow, answer: Answer, model: str, now: int) -> Record:
        completion = with_opening(row.opening, answer.text) if answer.text else ""
        return Record(
            key=row.key,
            index=row.index,
            repeat=row.repeat,
            variables=row.variables,
            prompt=self._prompt(row, completion),
            completion=completion,
            model=answer.model or model,
            finish_reason=answer.finish_reason,
            usage=answer.usage,
            attempts=row.attempts + 1,
            check_failures=self.checks.failures(completion, row.variables),
            latency_s=0.0,
            created=now,
            request_id=answer.request_id,
            reasoning=answer.reasoning,
            tool_calls=answer.tool_calls,
            simulated=answer.simulated,
        )

    def _prompt(self, row: BatchRow, completion: str) -> str:
        if not self.grid.prompt_needs_answer or not all(name in row.variables for name in self.grid.names):
            return row.prompt  # known when it was sent, or the row is of an earlier version of the job
        return self.grid.prompt_of(row.variables, completion)


def _is_final(error: AttemptError) -> bool:
    """Is the row given up on at once? An answer that was paid for and is none is not bought again unasked."""
    is_unusable = error.kind is ErrorClass.RETRY and error.maybe_paid and error is not _UNANSWERED
    return error.kind is ErrorClass.ROW or is_unusable


def _failure(row: BatchRow, error: AttemptError, tried: RowAttempts, now: int) -> Failure:
    return Failure(
        key=row.key,
        index=row.index,
        repeat=row.repeat,
        variables=row.variables,
        error=FailureError(type=error.type, code=error.code, status=error.status, message=error.message),
        attempts=tried.attempts,
        maybe_paid=tried.maybe_paid,
        created=now,
        request_id=error.request_id,
    )


def _there(files: BatchFiles) -> list[Path]:
    """Output first: should a row stand in both files, its answer counts."""
    return [path for path in (files.output, files.errors) if path.exists()]


def _open(path: Path) -> BinaryIO:
    return os.fdopen(open_regular(path, os.O_RDONLY), "rb")


def _index(downloaded: Sequence[BinaryIO], joined: JoinResult) -> dict[bytes, Place]:
    index: dict[bytes, Place] = {}
    for number, file in enumerate(downloaded):
        for offset, line in _lines(file):
            key = key_of_line(line) if line else None
            if key is None:
                joined.unread += 1
            else:
                index.setdefault(key, (number, offset))
    return index


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Offsets and lines; an empty one stands for a line that is too long to be read."""
    offset = len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
    file.seek(offset)
    while line := file.readline(_LONGEST_LINE):
        length, is_whole = len(line), line.endswith(b"\n") or len(line) < _LONGEST_LINE
        while not line.endswith(b"\n") and (rest := file.readline(_LONGEST_LINE)):
            line, length = rest, length + len(rest)
        if not line.isspace():
            yield offset, line if is_whole else b""
        offset += length
