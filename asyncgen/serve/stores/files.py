"""Objects on disk, one JSON file each, in order of creation; and files, uploaded or made by the server.

The API's times are whole seconds and a folder's listing has no order, so each JSON file also has a number, `sequence`,
beside the object's own fields. A damaged file, or one whose object has another id than its name, is skipped and left in
place. A file is the API's object beside the bytes; its content is left to the callers.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Generic, Self, TypeVar

import msgspec

from asyncgen.errors import AsyncgenError
from asyncgen.run.whole_file import as_disk_error
from asyncgen.serve.data_folder import read_whole, write_whole
from asyncgen.serve.wire import ApiError, Clock, new_id, no_such

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType


Item = TypeVar("Item", bound=msgspec.Struct)

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
_log = logging.getLogger(__name__)


def file_stem(identifier: str) -> str:
    """File name for an id, without its suffix. It never leads out of the folder, and is never too long."""
    if _PLAIN.fullmatch(identifier):
        return identifier.replace(":", "_")
    digest = hashlib.blake2b(identifier.encode("utf-8", "surrogatepass"), digest_size=16)
    return f"id-{digest.hexdigest()}"


class _Place(msgspec.Struct, frozen=True):
    """The part of a file that the store itself needs; files of older servers lack it."""

    sequence: int = 0


class JsonStore(Generic[Item]):
    """All objects of one kind, a JSON file each.

    Args:
        folder: contains the files.
        pattern: paths of the files in it, with `*` for the name that `file_stem` makes of the object's id.
        kind: type of the objects.
        identify: returns an object's id.
        made_at: returns its creation time, for objects of older servers.
        is_sound: whether an object is valid; an invalid one counts as damaged.
    """

    def __init__(
        self,
        folder: Path,
        pattern: str,
        kind: type[Item],
        *,
        identify: Callable[[Item], str],
        made_at: Callable[[Item], int],
        is_sound: Callable[[Item], bool] = lambda _: True,
    ) -> None:
        self._folder, self._pattern, self._kind = folder, pattern, kind
        self._identify, self._is_sound = identify, is_sound
        found = [entry for path in sorted(folder.glob(pattern)) if (entry := self._read(path))]
        found.sort(key=lambda entry: (entry[0], made_at(entry[1])))
        self._items = {identify(item): item for _, item in found}
        self._sequence = {identify(item): number for number, item in found}
        self._next = itertools.count(found[-1][0] + 1 if found else 1)

    def newest_first(self) -> list[Item]:
        return list(reversed(self._items.values()))

    def get(self, identifier: str) -> Item | None:
        return self._items.get(identifier)

    def put(self, item: Item) -> None:
        """Add an object, or replace the one with its id.

        Raises:
            DiskError: it could not be written. A new object is then not added; an existing one is replaced in memory,
                so that no outdated state is shown.
        """
        identifier = self._identify(item)
        is_new = identifier not in self._sequence
        if is_new:
            self._sequence[identifier] = next(self._next)
        self._items[identifier] = item
        try:
            write_whole(self._path(identifier), {**_fields(item), "sequence": self._sequence[identifier]})
        except AsyncgenError:
            if is_new:
                del self._items[identifier], self._sequence[identifier]
            raise

    def replace_in_memory(self, item: Item) -> None:
        """Replace an existing object until the server ends."""
        self._items[self._identify(item)] = item

    def remove(self, identifier: str) -> None:
        del self._items[identifier], self._sequence[identifier]
        self._path(identifier).unlink(missing_ok=True)

    def _path(self, identifier: str) -> Path:
        return self._folder / self._pattern.replace("*", file_stem(identifier))

    def _read(self, path: Path) -> tuple[int, Item] | None:
        try:
            number, item = read_whole(path, _Place).sequence, read_whole(path, self._kind)
        except (AsyncgenError, OSError) as error:
            _log.warning("%s is skipped: %s", path, error)
            return None
        if self._path(self._identify(item)) != path or not self._is_sound(item):
            _log.warning("%s is skipped: it does not contain the object of its name", path)
            return None
        return number, item


def _fields(item: msgspec.Struct) -> dict[str, object]:
    return {name: getattr(item, name) for name in item.__struct_fields__}


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
    """An upload in progress. Leaving the `with` block without `finish` discards it."""

    store: FileStore
    identifier: str
    stream: IO[bytes]
    size: int = field(default=0)

    def write(self, data: bytes) -> None:
        """Append to the file. Blocks."""
        self.stream.write(data)
        self.size += len(data)

    def finish(self, *, filename: str, purpose: str, lifetime_s: int | None = None) -> FileObject:
        """Add it to the store, to be deleted after its lifetime if it has one."""
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
        folder: contains the bytes as `ID`, and the object as `ID.json`.
        clock: Unix seconds.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        for rest in folder.glob("*.part"):  # incomplete uploads from before a crash
            rest.unlink()
        self._objects = JsonStore(
            folder,
            "*.json",
            FileObject,
            identify=lambda item: item.id,
            made_at=lambda item: item.created_at,
            is_sound=lambda item: file_stem(item.id) == item.id,  # the bytes are in the file named by the id
        )

    def part(self, identifier: str) -> Path:
        """Path of a temporary file for an upload."""
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
        with as_disk_error(f"{filename!r} could not be saved"):
            self.part(item.id).replace(self._folder / item.id)
        try:
            self._objects.put(item)
        except AsyncgenError:
            (self._folder / item.id).unlink(missing_ok=True)
            raise
        return item

    def add(self, content: bytes, *, filename: str, purpose: str) -> FileObject:
        """Add a file that the server made."""
        with self.begin() as upload:
            upload.write(content)
            return upload.finish(filename=filename, purpose=purpose)

    def copy(self, path: Path, *, filename: str, purpose: str) -> FileObject:
        """Add a copy of a file on this machine. Blocks during the copy."""
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
        """Path of the bytes. Raises ApiError: 404."""
        return (
            self._folder / self.get(identifier).id
        )  # an id made by this server, or of a file that was found at start-up

    def delete(self, identifier: str) -> None:
        """Raises ApiError: 404."""
        self._remove(self.get(identifier))

    def _remove(self, item: FileObject) -> None:
        self._objects.remove(item.id)
        (self._folder / item.id).unlink(missing_ok=True)
