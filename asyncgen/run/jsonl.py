"""Append-only JSON Lines files that survive a crash.

Appends and reads whole lines; a torn last line is set aside. What a line means is left to the callers, who raise
`BadLineError` if it is invalid.
"""

from __future__ import annotations

import codecs
import io
import os
import re
from typing import TYPE_CHECKING, TypeVar

import msgspec

from asyncgen.errors import AsyncgenError, DiskError, command_line
from asyncgen.json_text import NotJsonError, decode_json
from asyncgen.run.lock import lock_file
from asyncgen.run.whole_file import as_disk_error, disk_error, open_regular, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path


# No line comes near it: answers are limited to 16 MiB before they are decoded.
MAX_LINE_BYTES = 64 * 1024 * 1024
_BLOCK_BYTES = 64 * 1024
_BLOCK_READ_BYTES = 256 * 1024
# Where a row begins behind another one, or behind what a disk left: an object within a row has a colon before it.
ROW_BEGINS = re.compile(rb'(?<=[}\r\0\x1a]){"key":"')
Row = TypeVar("Row")


class BadLineError(DiskError):
    """An invalid line that is not the last one of its file.

    Args:
        path: the file.
        number: line number, from 1.
        cause: what is wrong with it.
    """

    code = "bad_line"

    def __init__(self, path: Path, number: int, cause: str) -> None:
        super().__init__(
            f"{path}, line {number} cannot be read",
            cause=cause,
            help_text=f"{command_line('repair', path.parent)}   (moves damaged lines to {path.name}.bad and keeps "
            "the rest)",
        )
        self.number = number


class NotSafeError(DiskError):
    """Lines that were written may not survive a power loss: an fsync failed, or another program changed the file."""

    code = "not_safe"


class SeveralRowsError(DiskError):
    """More than one row follows the last line break. No crash causes that, so it is not cut off."""

    code = "lines_lost"


def read_blocks(path: Path, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Read a file, or a part of it, in blocks of whole lines. The file may grow meanwhile.

    A last line without a newline counts if it is whole JSON: no proper prefix of a JSON object is.

    Args:
        path: the file; a missing one has no blocks.
        begin: offset of the part, where a line begins.
        end: offset after the part's last line; None for the end of the file.

    Yields:
        Line number of a block's first line, from 1 at `begin`, and the block.

    Raises:
        BadLineError: a line is longer than 64 MiB.
        DiskError: the file cannot be read.
    """
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    number, begun = 1, bytearray()  # number and beginning of the line that is not complete yet
    mark = codecs.BOM_UTF8 if begin == 0 else b""  # some editors put one
    with as_disk_error(f"{path} could not be read"), os.fdopen(descriptor, "rb", buffering=0) as file:
        file.seek(begin)
        while piece := file.read(_BLOCK_READ_BYTES if end is None else min(_BLOCK_READ_BYTES, end - file.tell())):
            stop = piece.rfind(b"\n") + 1
            if stop:
                block = bytes(begun) + piece[:stop]
                yield number, (block.removeprefix(mark) if number == 1 else block)
                number += block.count(b"\n")
                begun.clear()
            begun += piece[stop:]
            if len(begun) >= MAX_LINE_BYTES:
                raise BadLineError(path, number, f"it is longer than {MAX_LINE_BYTES} bytes")
    last = bytes(begun).removeprefix(mark) if number == 1 else bytes(begun)
    if _is_whole(last):
        yield number, last


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Read a file line by line, without blank lines.

    Args:
        path: the file; a missing one has no lines.

    Yields:
        Line number, from 1, and the line without its newline.

    Raises:
        BadLineError: as `read_blocks`.
        DiskError: as `read_blocks`.
    """
    for first, block in read_blocks(path):
        yield from lines_of(first, block)


def lines_of(first: int, block: bytes) -> Iterator[tuple[int, bytes]]:
    """Split a block into lines, without blank ones.

    Args:
        first: line number of the block's first line.
        block: whole lines.

    Yields:
        Line number and line, without its newline.
    """
    for number, line in enumerate(io.BytesIO(block), first):
        if not line.isspace():
            yield number, line


def read_rows(path: Path, decode: Callable[[bytes], Row]) -> Iterator[tuple[int, Row]]:
    """Read and decode a file line by line, without blank lines.

    Args:
        path: the file; a missing one has no rows.
        decode: parses a line; raises `NotJsonError` if it is invalid.

    Yields:
        Line number, from 1, and the decoded row.

    Raises:
        BadLineError: a line is invalid or too long.
        DiskError: the file cannot be read.
    """
    for first, block in read_blocks(path):
        yield from rows_of(path, first, block, decode)


def rows_in(paths: Iterable[Path], decode: Callable[[bytes], Row]) -> Iterator[Row]:
    """Read and decode several files, one after the other.

    Args:
        paths: the files; missing ones have no rows.
        decode: parses a line; raises `NotJsonError` if it is invalid.

    Yields:
        The decoded rows.

    Raises:
        BadLineError: a line is invalid or too long.
        DiskError: a file cannot be read.
    """
    for path in paths:
        for _, row in read_rows(path, decode):
            yield row


def rows_of(path: Path, first: int, block: bytes, decode: Callable[[bytes], Row]) -> Iterator[tuple[int, Row]]:
    """Decode the lines of a block.

    Args:
        path: the file, for the message.
        first: line number of the block's first line.
        block: whole lines.
        decode: parses a line; raises `NotJsonError` if it is invalid.

    Yields:
        Line number and decoded row.

    Raises:
        BadLineError: a line is invalid.
    """
    for number, line in lines_of(first, block):
        try:
            row = decode(line)
        except NotJsonError as error:
            raise BadLineError(path, number, str(error)) from error
        yield number, row


def follow_lines(path: Path, offset: int, most_bytes: int = 1 << 20) -> tuple[int, list[bytes]]:
    """Read the whole lines that were added to a growing file.

    Args:
        path: the file; it may be missing yet.
        offset: bytes that were read before; 0 for the beginning.
        most_bytes: maximum bytes to read at once, unless a single line is longer.

    Returns:
        The offset to continue from, and the lines without their newlines.

    Raises:
        DiskError: the file cannot be read.
    """
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            file.seek(offset)
            block = file.read(most_bytes)
            if block and b"\n" not in block:
                block += file.readline()
    except FileNotFoundError:
        return offset, []
    except OSError as error:
        raise disk_error(f"{path} could not be read", error) from error
    whole = block[: block.rfind(b"\n") + 1]
    return offset + len(whole), [line for line in whole.split(b"\n") if line.strip()]


def _is_whole(line: bytes) -> bool:
    if not line.rstrip().endswith(b"}"):
        return False
    try:
        decode_json(line, msgspec.Raw)
    except NotJsonError:
        return False
    return True


class LineFile:
    """An append-only file of whole lines. The caller holds the run's lock, so nobody else writes it.

    Opening repairs the end that a crash left: a torn last line is moved to `*.torn`, and a missing newline added. The
    lines found are synced, because later lines build on them. The file itself is locked too, because somebody may
    remove the run's lock file.

    Args:
        path: the file; created if it is missing.

    Attributes:
        torn_bytes: bytes that were moved to `*.torn`.

    Raises:
        RunInUseError: another process has it open for writing.
        SeveralRowsError: its end is more than one torn line.
        DiskError: it cannot be opened, read or repaired.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = open_regular(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        try:
            lock_file(self._descriptor, path)
            with as_disk_error(f"{path} could not be repaired"):
                self.torn_bytes = self._mend()
                sync_folder(path.parent)
                opened = os.fstat(self._descriptor)
        except AsyncgenError:
            os.close(self._descriptor)
            raise
        self._size = self._reach = opened.st_size
        self._identity = (opened.st_dev, opened.st_ino)
        self._unusable: DiskError | None = None
        self._unsafe: NotSafeError | None = None
        self._safe_size = self._size

    def append(self, lines: bytes) -> None:
        """Write one or more lines. Once this returns they survive the death of the process, not yet a power loss.

        Args:
            lines: each with its newline, 64 MiB at most together.

        Raises:
            DiskError: they could not be written. A part that was written is cut off again, so that later lines may be
                tried; if even that failed, every later line is refused.
        """
        if self._unusable is not None:
            raise self._unusable
        if len(lines) >= MAX_LINE_BYTES:
            self._refuse_long(lines)
        self._reach = max(self._reach, self._size + len(lines))
        try:
            written = os.write(self._descriptor, lines)
            while written < len(lines):  # a nearly full disk writes a part
                written += os.write(self._descriptor, lines[written:])
        except OSError as error:
            failure = disk_error(f"{self.path} could not be written", error)
            self._cut_back(failure)
            raise failure from error
        self._size += written

    def fsync(self) -> None:
        """Sync all lines to disk, so that they survive a power loss. May be called from another thread than `append`.

        Raises:
            NotSafeError: it failed, now or earlier. It is never retried: the system may have dropped the data, and
                would then report success.
        """
        self._unsafe = self._unsafe or self._fsync()
        if self._unsafe is not None:
            raise self._unsafe

    def sync(self) -> None:
        """Sync all lines to disk, and check that the file under this name is still the one that was opened.

        Raises:
            NotSafeError: the sync failed, or the file was replaced or shortened.
        """
        self._unsafe = self._unsafe or self._fsync() or self._check_identity()
        if self._unsafe is not None:
            raise self._unsafe

    def _fsync(self) -> NotSafeError | None:
        expected_size = self._size
        if expected_size == self._safe_size:
            return None
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            return self._not_safe(error)
        self._safe_size = expected_size
        return None

    def _check_identity(self) -> NotSafeError | None:
        try:
            there = os.lstat(self.path)
        except OSError as error:
            return self._not_safe(error)
        is_ours = (there.st_dev, there.st_ino) == self._identity
        if is_ours and self._safe_size <= there.st_size <= self._reach:  # read after the size, since it only grows
            return None
        how = "was extended" if is_ours and there.st_size > self._reach else "was replaced or shortened"
        return NotSafeError(
            f"{self.path} {how} by another program during the run",
            help_text="restore the file (an editor may have a copy), then run the same command again",
        )

    def _not_safe(self, error: OSError) -> NotSafeError:
        refusal = disk_error(f"{self.path} could not be synced to disk", error)
        return NotSafeError(refusal.what, cause=refusal.cause, help_text=refusal.help_text)

    def close(self) -> None:
        """Close the file.

        Raises:
            DiskError: the system reports an earlier write as failed only now, as network file systems do.
        """
        with as_disk_error(f"{self.path} could not be closed"):
            os.close(self._descriptor)

    def _refuse_long(self, lines: bytes) -> None:
        longest = max(map(len, lines.splitlines(keepends=True)))
        if longest >= MAX_LINE_BYTES:
            raise DiskError(
                f"a line of {longest:,} bytes for {self.path} could not be written",
                cause=f"lines can have at most {MAX_LINE_BYTES:,} bytes",
                help_text="shorten the longest value in the job's rows",
            )

    def _cut_back(self, failure: DiskError) -> None:
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:  # the torn line stays; the next start repairs it
            self._unusable = failure

    def _mend(self) -> int:
        size = os.fstat(self._descriptor).st_size
        end = _end_of_last_line(self._descriptor, size)
        torn_bytes = size - end
        if 0 < torn_bytes <= MAX_LINE_BYTES and _is_whole(os.pread(self._descriptor, torn_bytes, end)):
            os.write(self._descriptor, b"\n")
            torn_bytes = 0
        elif torn_bytes:
            if _holds_several_rows(self._descriptor, end, size):
                raise SeveralRowsError(
                    f"{self.path} ends with several rows without line breaks",
                    cause="a crash leaves at most one incomplete line, so another program has changed the file",
                    help_text=f"{command_line('repair', self.path.parent)}   (keeps every complete row)",
                )
            self._put_aside(end, size)
            os.ftruncate(self._descriptor, end)
        if size:
            os.fsync(self._descriptor)
        return torn_bytes

    def _put_aside(self, start: int, end: int) -> None:
        aside = self.path.with_name(self.path.name + ".torn")
        with os.fdopen(open_regular(aside, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as file:
            blocks = range(start, end, _BLOCK_BYTES)
            file.writelines(os.pread(self._descriptor, min(_BLOCK_BYTES, end - at), at) for at in blocks)
            file.write(b"\n")
            file.flush()
            os.fsync(file.fileno())


def _holds_several_rows(descriptor: int, start: int, end: int) -> bool:
    """Whether more than one row begins between two offsets. Inside a JSON text these bytes cannot occur."""
    rows, before = 0, b""
    for at in range(start, end, _BLOCK_BYTES):
        block = before + os.pread(descriptor, min(_BLOCK_BYTES, end - at), at)
        rows += len(ROW_BEGINS.findall(block)) - len(ROW_BEGINS.findall(before))
        before = block[-len(b'}{"key":"') :]
        if at == start and block.startswith(b'{"key":"'):
            rows += 1
    return rows > 1


def _end_of_last_line(descriptor: int, size: int) -> int:
    """The offset after the last newline; 0 if there is none."""
    end = size
    while end > 0:
        start = max(end - _BLOCK_BYTES, 0)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
