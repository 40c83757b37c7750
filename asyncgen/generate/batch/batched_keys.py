"""The keys of requests that wait for an answer in a batch, so that no engine sends them a second time.

Also reads the rows saved beside each batch's input: answers become records even if the job has changed since. Sending
and collecting batches is left to `send` and `engine`.
"""

from __future__ import annotations

import re
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from asyncgen.errors import DiskError, command_line
from asyncgen.generate.journal.settled import key_number
from asyncgen.json_text import decoder
from asyncgen.run.jsonl import read_lines, read_rows
from asyncgen.run.key_set import KeySet
from asyncgen.run.state import FOUND_AGAIN, UNNOTED, BatchState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from asyncgen.run.directory import RunDirectory, RunWriter


class BatchRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a request's answer needs to become a record: one line of `batches/INTENT.rows.jsonl`.

    Attributes:
        opening: first words of the answer that the request contains.
        attempts: HTTP calls for this request before the batch.
        maybe_paid: attempts that the provider may have charged for.
        failed: attempts without an answer.
        forgiven: of `maybe_paid`, those that the user agreed to.
    """

    key: str
    index: int
    repeat: int
    variables: dict[str, str]
    prompt: str
    opening: str = ""
    attempts: int = 0
    maybe_paid: int = 0
    failed: int = 0
    forgiven: int = 0


_decode_row = decoder(BatchRow)
# A batch's file, or one that was being written when the process was killed.
_OWN_FILE = re.compile(r"\.?(?P<intent>\d+-[0-9a-f]{8})\.(input|rows|output|errors)\.jsonl(\.\d+\.tmp|\.part)?")


def rows_path(directory: RunDirectory, intent: str) -> Path:
    """Path of the rows of a batch."""
    return directory.batches / f"{intent}.rows.jsonl"


def read_batch_rows(path: Path) -> Iterator[BatchRow]:
    """Read the rows of a batch, in the order of its input.

    Args:
        path: from `rows_path`.

    Yields:
        Each row.

    Raises:
        BadLineError: a line is not such a row.
        DiskError: the file is missing or cannot be read.
    """
    if not path.exists():
        raise DiskError(
            f"{path} is missing: it lists the rows of an open batch",
            help_text="restore it, or give the batch up: "
            + command_line("batch cancel", path.name.removesuffix(".rows.jsonl"))
            + "   (its rows are then sent again)",
            code="no_batch_rows",
        )
    return (row for _, row in read_rows(path, _decode_row))


def batches_by_files(directory: RunDirectory) -> list[BatchState]:
    """Find batches by their files, for a run whose `run.json` was lost.

    The provider that they were sent to is unknown then; it is asked for the intent.

    Args:
        directory: of the run.

    Returns:
        Notes for `run.json`.

    Raises:
        DiskError: the folder cannot be read.
    """
    found = sorted(path for path in directory.batches.glob("*.rows.jsonl") if _OWN_FILE.fullmatch(path.name))
    return [_noted_again(path) for path in found]


def _noted_again(path: Path) -> BatchState:
    intent = path.name.removesuffix(".rows.jsonl")
    created, _, _ = intent.partition("-")
    return BatchState(
        intent=intent,
        provider="",
        base_url="",
        model="",
        requests=sum(1 for _ in read_lines(path)),
        created=int(created) if created.isdecimal() else 0,
        status=FOUND_AGAIN,
    )


class BatchedKeys:
    """Keys of the requests in batches that are not collected yet.

    Args:
        batches: the keys of each, by its intent.
    """

    def __init__(self, batches: dict[str, KeySet]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return sum(map(len, self._batches.values()))

    def __bool__(self) -> bool:
        return bool(self._batches)

    def has(self, number: int) -> bool:
        """True if a batch contains a key whose first 64 bits are `number`."""
        return bool(self._batches) and any(keys.has(number) for keys in self._batches.values())

    def claim(self, intent: str, keys: KeySet) -> None:
        """Claim the keys of one more batch; they may still be added to."""
        self._batches[intent] = keys

    def release(self, intent: str) -> None:
        """Release the keys of a batch that is collected or given up; its unanswered rows are open again."""
        self._batches.pop(intent, None)


def open_batched_keys(run: RunWriter) -> BatchedKeys:
    """Read the keys of all batches of a run that are not collected, and remove files that a crash left.

    Args:
        run: open for writing.

    Returns:
        The keys.

    Raises:
        BadLineError: the rows of a batch cannot be read.
        DiskError: they are missing, or a link is in place of their folder.
    """
    _refuse_link(run.directory.batches)
    _note_unnoted(run)
    open_batches = [batch.intent for batch in run.state.batches if not batch.collected]
    _remove_strangers(run.directory.batches, open_batches)
    return BatchedKeys({intent: _keys(read_batch_rows(rows_path(run.directory, intent))) for intent in open_batches})


def _note_unnoted(run: RunWriter) -> None:
    """Note batches that only have files: `run.json` was restored from a copy, or the process died.

    The provider may be processing them, and they must not be paid for twice.
    """
    noted = {batch.intent for batch in run.state.batches}
    found = [batch for batch in batches_by_files(run.directory) if batch.intent not in noted]
    if found:
        again = [msgspec.structs.replace(batch, status=UNNOTED) for batch in found]
        run.update(lambda state: msgspec.structs.replace(state, batches=[*state.batches, *again]))


def _keys(rows: Iterable[BatchRow]) -> KeySet:
    keys = KeySet()
    for row in rows:
        keys.add_number(key_number(row.key))
    return keys


def _refuse_link(folder: Path) -> None:
    if folder.is_symlink():
        raise DiskError(
            f"{folder} is not a folder inside the run",
            cause="it is a link, but the files of the run's batches belong there",
            help_text=f"move it away (ls -ld {folder})",
        )


def _remove_strangers(folder: Path, open_batches: list[str]) -> None:
    """Remove the files that collected batches left; other names are left alone."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        name = _OWN_FILE.fullmatch(path.name)
        if name and name["intent"] not in open_batches and stat.S_ISREG(path.lstat().st_mode):
            path.unlink()
    with suppress(OSError):  # not empty
        folder.rmdir()
