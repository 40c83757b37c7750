"""Upload a dataset file once, found again by its hash; the entries of uploads and jobs in `run.json`.

Computes the hash, chooses the file name at the provider, and adds a byte order mark if the provider wants one. Each
change of the state is a function from state to state; the file and its lock are left to `Notes`, which an open run
implements.
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.finetune.api import AbsentError, FileApi, OnProgress, Tuner, TuningJob
from asyncgen.run.state import FinetuningState, RunState, UploadState
from asyncgen.run.whole_file import disk_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Notes(Protocol):
    """A state that outlives the process, such as `run.json`."""

    @property
    def state(self) -> RunState:
        """The noted state."""
        ...

    def update(self, change: Callable[[RunState], RunState]) -> RunState:
        """Note what `change` makes of the state; raises DiskError."""
        ...


def noted_file(state: RunState, provider: str, place: str, sha256: str) -> str | None:
    """The id that these bytes had at the provider, as far as is noted."""
    for upload in reversed(state.uploads):
        if (upload.provider, upload.base_url, upload.sha256) == (provider, place, sha256):
            return upload.file_id
    return None


def with_upload(state: RunState, upload: UploadState) -> RunState:
    """The state with an upload, which replaces an earlier one of the same bytes to the same place."""
    place = (upload.provider, upload.base_url, upload.sha256, upload.purpose)
    others = [old for old in state.uploads if (old.provider, old.base_url, old.sha256, old.purpose) != place]
    return replace(state, uploads=[*others, upload])


def with_intent(state: RunState, intent: FinetuningState) -> RunState:
    """The state with a job that is about to be asked for."""
    return replace(state, finetuning=[*state.finetuning, intent])


def without_intent(state: RunState, intent: FinetuningState) -> RunState:
    """The state without a job that was asked for and does not exist."""
    return replace(state, finetuning=[noted for noted in state.finetuning if noted.intent != intent.intent])


def with_job(state: RunState, intent: str, job: TuningJob) -> RunState:
    """The state with what the provider says of the job that was asked for under this intent."""
    return replace(
        state,
        finetuning=[
            replace(noted, job_id=job.id, status=job.status, tuned_model=job.tuned_model or noted.tuned_model)
            if noted.intent == intent
            else noted
            for noted in state.finetuning
        ],
    )


def with_last_event(state: RunState, job_id: str, event_id: str) -> RunState:
    """Return the state with a job's newest event in `events.jsonl`."""
    return replace(
        state,
        finetuning=[
            replace(noted, last_event=event_id) if noted.job_id == job_id else noted for noted in state.finetuning
        ],
    )


def noted_job(state: RunState, job_id: str) -> FinetuningState | None:
    """The noted job; None if it is not one of the run's."""
    return next((noted for noted in state.finetuning if noted.job_id == job_id), None)


def newest_job(state: RunState) -> FinetuningState | None:
    """The run's newest job that surely exists."""
    return next((noted for noted in reversed(state.finetuning) if noted.job_id), None)


_NO_SUCH_METHOD = frozenset({"http_405", "http_501"})
_NAMED_BY = 16  # hexadecimal digits: no two files of one account share them


@dataclass(frozen=True, slots=True)
class UploadSource:
    """A file as it will be sent.

    Attributes:
        path: the file.
        sha256: hexadecimal hash of its content.
        bytes: size.
        filename: its name at the provider, which contains the hash.
    """

    path: Path
    sha256: str
    bytes: int
    filename: str


@contextmanager
def upload_source(path: Path, *, byte_order_mark: bool, max_bytes: int) -> Iterator[UploadSource]:
    """Open the file with or without a byte order mark, as the provider wants it; a temporary copy is made if necessary.

    Args:
        path: the file.
        byte_order_mark: whether it must begin with one.
        max_bytes: maximum size.

    Yields:
        The file to upload.

    Raises:
        DiskError: it cannot be read.
        UsageError: it is larger than `max_bytes`.
    """
    with tempfile.TemporaryDirectory(prefix="asyncgen-") as folder:
        try:
            wanted = _as_wanted(path, Path(folder), byte_order_mark=byte_order_mark)
            with wanted.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
        except OSError as error:
            raise disk_error(f"{path} could not be read", error) from error
        if size > max_bytes:
            raise UsageError(
                f"{path} has {size / 1024**2:,.0f} MB; the provider takes {max_bytes / 1024**2:,.0f} MB at most"
            )
        yield UploadSource(wanted, sha256, size, f"{path.stem}-{sha256[:_NAMED_BY]}.jsonl")


def _as_wanted(path: Path, folder: Path, *, byte_order_mark: bool) -> Path:
    with path.open("rb") as file:
        marked = file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
        if marked == byte_order_mark:
            return path
        if not marked:
            file.seek(0)
        copy = folder / path.name
        with copy.open("wb") as target:
            target.write(codecs.BOM_UTF8 if byte_order_mark else b"")
            shutil.copyfileobj(file, target)
    return copy


async def upload_once(tuner: Tuner, notes: Notes, source: UploadSource, on_progress: OnProgress) -> str:
    """Upload a file, unless the provider already has these bytes.

    Args:
        tuner: the provider.
        notes: of the run.
        source: the file.
        on_progress: called with bytes sent and bytes in total.

    Returns:
        The provider's id of the file.

    Raises:
        OutageError: the provider cannot be reached.
        AuthError: the provider refuses the key.
        QuotaError: the account is empty.
        AsyncgenError: the provider refuses the file.
        DiskError: the file cannot be read, or the id cannot be noted.
    """
    file_id = await _held(tuner, notes, source)
    if file_id is None:
        file_id = await tuner.files.upload(source.path, source.filename, on_progress)
    upload = UploadState(
        provider=tuner.profile.name, base_url=tuner.place, sha256=source.sha256, file_id=file_id, purpose="fine-tune"
    )
    await asyncio.to_thread(notes.update, lambda state: with_upload(state, upload))
    return file_id


async def _held(tuner: Tuner, notes: Notes, source: UploadSource) -> str | None:
    noted = noted_file(notes.state, tuner.profile.name, tuner.place, source.sha256)
    if noted and await _exists(tuner.files, noted):
        return noted
    try:
        async for file in tuner.files.all():
            if file.filename == source.filename and file.bytes in (0, source.bytes):
                return file.id
    except AbsentError:  # a server that stores files, but does not list them
        return None
    except AsyncgenError as error:  # without the list the file is uploaded again
        if error.code not in _NO_SUCH_METHOD:
            raise
    return None


async def _exists(files: FileApi, file_id: str) -> bool:
    try:
        await files.get(file_id)
    except AbsentError:
        return False
    return True
