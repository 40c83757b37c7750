"""Answers of a batch, in any order, joined with its rows and kept in the journal.

Owns what becomes of each row: a record, a failure, or open again. May be broken off anywhere and done again: a row
that is settled stays as it is. Holds an index of the lines, never the lines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from asyncgen.generate.batch.files import BatchFiles, key_of_line, read_output_line
from asyncgen.generate.batch.held_keys import BatchRow, read_batch_rows
from asyncgen.generate.http.completer import Answer, AttemptError, ErrorClass
from asyncgen.generate.journal.journal import Journal
from asyncgen.generate.pool.settle import whole
from asyncgen.job.checks import AnswerChecks
from asyncgen.job.requests import RequestGrid
from asyncgen.run.records import Failure, FailureError, Record
from asyncgen.run.whole_file import disk_error

_LONGEST_LINE = 16 * 1024 * 1024  # as of a reply online
_TURN_ROWS = 200


@dataclass(slots=True)
class Joined:
    """What a batch came to.

    Attributes:
        answered: rows that became records now; those that a broken-off join kept before are not counted.
        failed: rows given up on now.
        open: rows without an outcome (expired, cancelled, refused for a moment): they may be asked for again.
        unread: lines that belong to no row of the batch, or are too long to be an answer.
        stop: the first error that no row would have survived.
    """

    answered: int = 0
    failed: int = 0
    open: int = 0
    unread: int = 0
    stop: AttemptError | None = None


async def join(
    files: BatchFiles, journal: Journal, grid: RequestGrid, checks: AnswerChecks, model: str, *, now: int
) -> Joined:
    """Keep every answer and error that was downloaded for a batch.

    Args:
        files: of the batch; an output or error file that is not there has no lines.
        journal: of the run.
        grid: renders the prompts that have places of the answer.
        checks: the answers are judged by.
        model: that was asked, for answers that name none.
        now: Unix seconds.

    Raises:
        DiskError: the journal cannot be written, or a file not be read.
    """
    joined = Joined()
    record_of = partial(_record, grid=grid, checks=checks, model=model, now=now)
    with ExitStack() as stack:
        downloaded = [stack.enter_context(path.open("rb")) for path in _there(files)]
        try:
            index = _index(downloaded, joined)
            for number, row in enumerate(read_batch_rows(files.rows)):
                place = index.pop(bytes.fromhex(row.key), None)
                outcome = _line_at(downloaded, place) if place else None
                _keep(row, outcome, journal, record_of, now, joined)
                if number % _TURN_ROWS == 0:
                    await asyncio.sleep(0)  # lets Ctrl-C in
        except OSError as error:
            raise disk_error(f"the answers of batch {files.intent} could not be read", error) from error
    joined.unread += len(index)
    return joined


def _there(files: BatchFiles) -> list[Path]:
    """Output first: should a row stand in both files, its answer counts."""
    return [path for path in (files.output, files.errors) if path.exists()]


Place = tuple[int, int]  # number of the file, offset of the line


def _index(downloaded: Sequence[BinaryIO], joined: Joined) -> dict[bytes, Place]:
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
    offset = 0
    while line := file.readline(_LONGEST_LINE):
        length, is_whole = len(line), line.endswith(b"\n") or len(line) < _LONGEST_LINE
        while not line.endswith(b"\n") and (rest := file.readline(_LONGEST_LINE)):
            line, length = rest, length + len(rest)
        if not line.isspace():
            yield offset, line if is_whole else b""
        offset += length


def _line_at(downloaded: Sequence[BinaryIO], place: Place) -> Answer | AttemptError:
    number, offset = place
    downloaded[number].seek(offset)
    return read_output_line(downloaded[number].readline(_LONGEST_LINE))


def _keep(
    row: BatchRow,
    outcome: Answer | AttemptError | None,
    journal: Journal,
    record_of: Callable[[BatchRow, Answer], Record],
    now: int,
    joined: Joined,
) -> None:
    key = bytes.fromhex(row.key)
    if journal.has_record(key):
        return
    if isinstance(outcome, Answer):
        journal.take(key)
        journal.settle([record_of(row, outcome)], in_batch=True)
        joined.answered += 1
    elif outcome is not None and _is_final(outcome):
        if journal.tried_before(key).attempts <= row.attempts:  # else a broken-off join noted it
            journal.fail(_failure(row, outcome, now), outcome.usage, in_batch=True)
            joined.failed += 1
    else:
        joined.open += 1
        if outcome is not None and outcome.kind is ErrorClass.STOP:
            joined.stop = joined.stop or outcome


def _is_final(error: AttemptError) -> bool:
    """Is the row given up on? What was paid for without an answer is not bought again unasked."""
    return error.kind is ErrorClass.ROW or (error.kind is ErrorClass.RETRY and error.maybe_paid)


def _record(row: BatchRow, answer: Answer, *, grid: RequestGrid, checks: AnswerChecks, model: str, now: int) -> Record:
    completion = whole(row.opening, answer.text) if answer.text else ""
    return Record(
        key=row.key,
        index=row.index,
        repeat=row.repeat,
        variables=row.variables,
        prompt=_prompt(row, completion, grid),
        completion=completion,
        model=answer.model or model,
        finish_reason=answer.finish_reason,
        usage=answer.usage,
        attempts=row.attempts + 1,
        check_failures=checks.failures(completion, row.variables),
        latency_s=0.0,
        created=now,
        request_id=answer.request_id,
        reasoning=answer.reasoning,
        tool_calls=answer.tool_calls,
        simulated=answer.simulated,
    )


def _prompt(row: BatchRow, completion: str, grid: RequestGrid) -> str:
    if not grid.prompt_needs_answer or not all(name in row.variables for name in grid.names):
        return row.prompt  # known when it was sent, or of a row of an earlier form of the job
    return grid.prompt_of(row.variables, completion)


def _failure(row: BatchRow, error: AttemptError, now: int) -> Failure:
    return Failure(
        key=row.key,
        index=row.index,
        repeat=row.repeat,
        variables=row.variables,
        error=FailureError(type=error.type, code=error.code, status=error.status, message=error.message),
        attempts=row.attempts + 1,
        maybe_paid=row.maybe_paid + error.maybe_paid,
        created=now,
        request_id=error.request_id,
    )
