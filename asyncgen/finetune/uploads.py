"""A dataset file at the provider: sent once, found again by its bytes.

Owns the hash, the name that carries it to the provider, and the byte order mark that some want. Does not know
what the file holds.
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from asyncgen.errors import UsageError
from asyncgen.finetune.api import FileApi, OnProgress, Tuner
from asyncgen.finetune.errors import AbsentError
from asyncgen.finetune.notes import Notes, noted_file, with_upload
from asyncgen.run_state import Upload
from asyncgen.whole_file import disk_error

_NAMED_BY = 16  # hexadecimal digits: no two files of one account share them


@dataclass(frozen=True, slots=True)
class UploadSource:
    """A file as it is to be sent.

    Attributes:
        filename: its name at the provider, which carries its hash: a file of that name holds these bytes.
    """

    path: Path
    sha256: str
    bytes: int
    filename: str


@contextmanager
def upload_source(path: Path, *, byte_order_mark: bool, max_bytes: int) -> Iterator[UploadSource]:
    """The file with or without a byte order mark, as wanted; a copy is made, for the block, where it is not so.

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
    """The id of the file at the provider; it is sent only when the provider does not hold these bytes.

    Raises:
        OutageError, AuthError, QuotaError, AsyncgenError: the provider's.
        DiskError: the file cannot be read, or the id not be noted.
    """
    file_id = await _held(tuner, notes, source)
    if file_id is None:
        file_id = await tuner.files.upload(source.path, source.filename, on_progress)
    upload = Upload(
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
    return None


async def _exists(files: FileApi, file_id: str) -> bool:
    try:
        await files.get(file_id)
    except AbsentError:
        return False
    return True
