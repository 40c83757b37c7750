"""Read a large run in parts, each by a process of its own, and put together what they find in order.

Files are divided at line ends. Starts the processes, asks them, ends them, and raises their errors as its own. Each is
in a session of its own: Ctrl-C is for the command. What a process does is left to `part_child`, what it looks for to
the tasks of `draft_pass` and `report.collect`.
"""

from __future__ import annotations

import os
import pickle
import secrets
import signal
import subprocess
import sys
from array import array
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, Protocol, TypeVar

from asyncgen.dataset.writer import FilePart
from asyncgen.errors import AsyncgenError
from asyncgen.run.jsonl import BadLineError
from asyncgen.run.whole_file import as_disk_error, open_regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import Self

    from asyncgen.dataset.writer import Fetcher, RowFile
    from asyncgen.run.records import Record

LEAST_BYTES = 24 * 1024 * 1024  # of a part; a smaller one takes less time than to start a process
MOST_PARTS = 32
_BLOCK_BYTES = 64 * 1024


class Found(Protocol):
    """What a scan knows. Can be pickled."""

    def extend(self, other: Self, /) -> None:
        """Add what was found in the next part."""


FoundT = TypeVar("FoundT", bound=Found)
FoundT_co = TypeVar("FoundT_co", bound=Found, covariant=True)


class Scan(Protocol[FoundT_co]):
    """Looks at records in order."""

    @property
    def found(self) -> FoundT_co: ...

    def at_records(self, records: Sequence[Record], /) -> None: ...

    def end_part(self, lines: Fetcher, /) -> None: ...


class ScanTask(Protocol[FoundT_co]):
    """The inputs of a scan. Can be pickled."""

    def scan(self, outputs: Sequence[BinaryIO], /) -> Scan[FoundT_co]: ...


Part = Sequence[FilePart]  # one after the other


def divide(paths: Sequence[Path], least_bytes: int = LEAST_BYTES, most: int | None = None) -> Sequence[Part]:
    """Divide files into parts of about the same size; a part may consist of several files.

    Args:
        paths: the files; missing ones are in no part.
        least_bytes: size of a part, at least.
        most: maximum number of parts; None for the number of processors that this process may use.

    Returns:
        The parts in order; none if there would be only one.

    Raises:
        DiskError: a file cannot be read.
    """
    sizes = [path.stat().st_size if path.exists() else 0 for path in paths]
    wanted = min(sum(sizes) // least_bytes, most or _processors(), MOST_PARTS)
    if wanted <= 1:
        return []
    size_of_part = sum(sizes) / wanted
    parts: dict[int, list[FilePart]] = {}
    before = 0  # bytes
    for number, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        pieces = max(round(size / size_of_part), 1)
        cuts = sorted({_line_begin(path, size * cut // pieces) for cut in range(1, pieces)} - {0, size})
        for begin, end in zip([0, *cuts], [*cuts, size], strict=True):
            middle = before + (begin + end) / 2
            part = parts.setdefault(min(int(middle / size_of_part), wanted - 1), [])
            if size:
                part.append(FilePart(number, begin, end if end < size else None))
        before += size
    filled = [part for _, part in sorted(parts.items()) if part]
    return filled if len(filled) > 1 else []


def _processors() -> int:
    if not sys.executable:  # as where Python is a part of another program
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _line_begin(path: Path, offset: int) -> int:
    """Where the first line after an offset begins; the end of the file if there is none."""
    descriptor = open_regular(path, os.O_RDONLY)
    try:
        with as_disk_error(f"{path} could not be read"):
            while block := os.pread(descriptor, _BLOCK_BYTES, offset):
                if newline := block.find(b"\n") + 1:
                    return offset + newline
                offset += len(block)
        return offset
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class PartRequest(Generic[FoundT]):
    """What a process is told.

    Attributes:
        task: what it does.
        paths: files of records.
        part: of them.
        outputs: descriptors of the files that the task writes.
    """

    task: ScanTask[FoundT]
    paths: Sequence[Path]
    part: Part
    outputs: Sequence[int]


@dataclass(frozen=True, slots=True)
class PartFound(Generic[FoundT]):
    """What a process answers.

    Attributes:
        found: what the task found.
        begins: where each record begins.
        lines: number of lines of its last file.
    """

    found: FoundT
    begins: array[int]
    lines: int


@dataclass(frozen=True, slots=True)
class PartFailure:
    """What a process answers if it cannot read its part.

    Attributes:
        kind: class of the error; None for one that was not foreseen.
        what: its message.
        cause: its cause.
        help_text: the next step.
        line: number of the line that is damaged, from 1 in `where`; None for other errors.
        where: it stands; None for other errors.
    """

    kind: type[AsyncgenError] | None
    what: str
    cause: str | None = None
    help_text: str | None = None
    line: int | None = None
    where: FilePart | None = None

    def error(self, paths: Sequence[Path], lines: int) -> Exception:
        """The error as this process would have raised it; `lines` of the part's first file are in earlier parts."""
        if self.kind is None:
            return RuntimeError(self.what)
        if self.line is not None and self.where is not None:
            number = self.line + (lines if self.where.begin else 0)
            return BadLineError(paths[self.where.file], number, self.cause or "")
        return self.kind(self.what, cause=self.cause, help_text=self.help_text)


def read_parts(
    task: ScanTask[FoundT],
    rows: RowFile[Record],
    parts: Sequence[Part],
    outputs: Sequence[Sequence[BinaryIO]],
    found: FoundT,
) -> None:
    """Read each part in a process of its own.

    Args:
        task: what each process does.
        rows: the records; gets their places, as if they had been read here.
        parts: from `divide`.
        outputs: empty files for each part, which the task writes.
        found: gets what was found, in the order of the parts.

    Raises:
        BadLineError: a line is not a record.
        DiskError: a file could not be read or written.
        AsyncgenError: a process ended unexpectedly.
    """
    with ExitStack() as stack:
        # Hashes of texts are compared with those of the other processes.
        environment = {
            **os.environ,
            "PYTHONHASHSEED": str(secrets.randbelow(2**32)),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        descriptors = [[file.fileno() for file in files] for files in outputs]
        processes = [stack.enter_context(_process(environment, each)) for each in descriptors]
        for process, part, each in zip(processes, parts, descriptors, strict=True):
            _ask(process, PartRequest(task, rows.paths, part, each))
        answers = (_answer(process, rows.paths[part[0].file]) for process, part in zip(processes, parts, strict=True))
        join_parts(answers, rows, parts, found)


def join_parts(
    answers: Iterable[PartFound[FoundT] | PartFailure], rows: RowFile[Record], parts: Sequence[Part], found: FoundT
) -> None:
    """Put together what was found in the parts of a run.

    Args:
        answers: of each part, in order.
        rows: gets the places of the records.
        parts: from `divide`.
        found: gets what was found.

    Raises:
        AsyncgenError: a part could not be read; the first such error, with the line number in the whole file.
    """
    lines = 0  # of a file that goes on in the next part
    remaining = iter(answers)
    for part in parts:
        answer = next(remaining)
        if isinstance(answer, PartFailure):
            raise answer.error(rows.paths, lines)
        found.extend(answer.found)
        rows.begins.extend(answer.begins)
        lines = answer.lines + (lines if part[-1].begin else 0)
        del answer  # before the next one takes as much memory


@contextmanager
def _process(environment: Mapping[str, str], outputs: Sequence[int]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that reads a part; it is killed when the block ends."""
    command = [sys.executable, "-P", "-m", "asyncgen.dataset.part_child"]
    process = subprocess.Popen(  # noqa: S603 - our own module
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        pass_fds=outputs,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()


def _ask(process: subprocess.Popen[bytes], request: PartRequest[Any]) -> None:
    assert process.stdin is not None, "it is a pipe"
    with suppress(BrokenPipeError):  # it has ended, and there will be no answer
        pickle.dump(request, process.stdin)
        process.stdin.flush()


def _answer(process: subprocess.Popen[bytes], path: Path) -> PartFound[Any] | PartFailure:
    assert process.stdout is not None, "it is a pipe"
    try:
        answer = pickle.load(process.stdout)  # noqa: S301 - from our own process
    except (EOFError, pickle.UnpicklingError):
        return ended_early(path, process.wait())
    assert isinstance(answer, PartFound | PartFailure), "the process answers nothing else"
    return answer


def ended_early(path: Path, code: int | None) -> PartFailure:
    """The failure of a process that had no answer.

    Args:
        path: of the file that it read.
        code: as `subprocess` has it, negative for a signal; None if there was not enough memory.
    """
    if code is None or code == -signal.SIGKILL:
        cause = "there was not enough memory for it, or somebody killed it"
    else:
        cause = f"it was ended by signal {-code}" if code < 0 else f"exit code {code}"
    return PartFailure(
        AsyncgenError,
        f"a process that read a part of {path} ended early; nothing was changed",
        cause=cause,
        help_text="run the same command again; with `taskset -c 0` before it, one process reads all, in less memory",
    )
