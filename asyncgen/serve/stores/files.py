"""Files on disk, uploaded or made by the server: the API's object beside the bytes.

The content is left to the callers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Self

import msgspec

from asyncgen.errors import AsyncgenError
from asyncgen.run.whole_file import explained
from asyncgen.serve.stores.shelf import Shelf, file_stem
from asyncgen.serve.wire import ApiError, Clock, new_id, no_such

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_CHUNK = 1024 * 1024


class FileObject(msgspec.Struct, frozen=True, kw_only=True):
    """A file as the API shows it."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    object: str = "file"
    expires_at: int | None = None
    status: str = "processed"
    status_details: str | None = None


@dataclass(slots=True)
class UploadedFile:
    """A file on its way in. Leaving the `with` block without `finish` throws away what was written."""

    store: FileStore
    identifier: str
    stream: IO[bytes]
    size: int = field(default=0)

    def write(self, data: bytes) -> None:
        """Append; blocks as a disk does."""
        self.stream.write(data)
        self.size += len(data)

    def finish(self, *, filename: str, purpose: str, lifetime_s: int | None = None) -> FileObject:
        """Make it a file of the store, to be deleted after its lifetime where one is given."""
        self.stream.close()
        return self.store.accept(self, filename=filename, purpose=purpose, lifetime_s=lifetime_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stream.close()
        self.store.part(self.identifier).unlink(missing_ok=True)


class FileStore:
    """All files of a data folder.

    Args:
        folder: `ID` holds the bytes, `ID.json` the object.
        clock: Unix seconds.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        for rest in folder.glob("*.part"):  # uploads that a crash cut off
            rest.unlink()
        self._objects = Shelf(
            folder,
            "*.json",
            FileObject,
            identify=lambda item: item.id,
            made_at=lambda item: item.created_at,
            is_sound=lambda item: file_stem(item.id) == item.id,  # its bytes are beside it, under the id itself
        )

    def part(self, identifier: str) -> Path:
        """Where an upload is written to."""
        return self._folder / f"{identifier}.part"

    def begin(self) -> UploadedFile:
        identifier = new_id("file-")
        return UploadedFile(self, identifier, self.part(identifier).open("wb"))

    def accept(self, upload: UploadedFile, *, filename: str, purpose: str, lifetime_s: int | None) -> FileObject:
        """Called by `Upload.finish`."""
        now = int(self._clock())
        item = FileObject(
            id=upload.identifier,
            bytes=upload.size,
            created_at=now,
            filename=filename,
            purpose=purpose,
            expires_at=now + lifetime_s if lifetime_s else None,
        )
        with explained(f"{filename!r} could not be kept"):
            self.part(item.id).replace(self._folder / item.id)
        try:
            self._objects.put(item)
        except AsyncgenError:
            (self._folder / item.id).unlink(missing_ok=True)
            raise
        return item

    def add(self, content: bytes, *, filename: str, purpose: str) -> FileObject:
        """A file of the server's own making."""
        with self.begin() as upload:
            upload.write(content)
            return upload.finish(filename=filename, purpose=purpose)

    def copy(self, path: Path, *, filename: str, purpose: str) -> FileObject:
        """Likewise, from a file elsewhere; blocks as a disk does."""
        with self.begin() as upload, path.open("rb") as source:
            while chunk := source.read(_CHUNK):
                upload.write(chunk)
            return upload.finish(filename=filename, purpose=purpose)

    def all(self) -> list[FileObject]:
        """All files, newest first; those past their lifetime are gone."""
        now = self._clock()
        for item in self._objects.newest_first():
            if item.expires_at and item.expires_at <= now:
                self._remove(item)
        return self._objects.newest_first()

    def get(self, identifier: str) -> FileObject:
        """Raises ApiError: 404."""
        item = self._objects.get(identifier)
        if item is None or (item.expires_at and item.expires_at <= self._clock()):
            raise no_such("File object", identifier)
        return item

    def require(self, identifier: str, purpose: str, *, param: str) -> None:
        """Make sure that a file named in a request can be used for what it was uploaded for.

        Raises:
            ApiError: 400, naming the parameter at fault.
        """
        try:
            found = self.get(identifier).purpose
        except ApiError as error:
            raise ApiError(400, str(error), param=param, code="file_not_found") from None
        if found != purpose:
            message = f"The file {identifier} was uploaded for '{found}', not for '{purpose}'."
            raise ApiError(400, message, param=param, code="invalid_file_purpose")

    def content(self, identifier: str) -> Path:
        """Where the bytes are. Raises ApiError: 404."""
        return self._folder / self.get(identifier).id  # made by this server, or found under its own name

    def delete(self, identifier: str) -> None:
        """Raises ApiError: 404."""
        self._remove(self.get(identifier))

    def _remove(self, item: FileObject) -> None:
        self._objects.remove(item.id)
        (self._folder / item.id).unlink(missing_ok=True)
