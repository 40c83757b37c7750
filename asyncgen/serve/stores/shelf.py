"""A store of objects of one kind: one JSON file each, in order of creation.

The API's times are whole seconds and a folder's listing has no order, so each file also has a number, `sequence`,
beside the object's own fields. A damaged file, or one whose object has another id than its name, is skipped and left in
place. The objects' fields are left to the callers.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from asyncgen.errors import AsyncgenError
from asyncgen.serve.data_folder import read_whole, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Item = TypeVar("Item", bound=msgspec.Struct)

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
_log = logging.getLogger(__name__)


def file_stem(identifier: str) -> str:
    """The name of an object's file, without its ending: no id leads out of the folder, and none is too long."""
    if _PLAIN.fullmatch(identifier):
        return identifier.replace(":", "_")
    digest = hashlib.blake2b(identifier.encode("utf-8", "surrogatepass"), digest_size=16)
    return f"id-{digest.hexdigest()}"


class _Place(msgspec.Struct, frozen=True):
    """The part of a file that is the shelf's; files of older servers have none."""

    sequence: int = 0


class Shelf(Generic[Item]):
    """All objects of a kind.

    Args:
        folder: holds them.
        pattern: of the files' paths in it, with `*` for the name that `file_stem` gives the object's id.
        kind: what stands in the files.
        identify: an object's id.
        made_at: when it was made, for those of older servers.
        is_sound: whether an object may be used; one that may not counts as damaged.
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
        """Add an object or replace the one of its id, on disk too.

        Raises:
            DiskError: it could not be written. A new one is then not there; one that was there is replaced all the
                same until the server ends, so that nobody is told of a state that is over.
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
        """Likewise for one that is there, but only until the server ends."""
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
            _log.warning("%s is passed over: %s", path, error)
            return None
        if self._path(self._identify(item)) != path or not self._is_sound(item):
            _log.warning("%s is passed over: it does not hold the object that its name says", path)
            return None
        return number, item


def _fields(item: msgspec.Struct) -> dict[str, object]:
    return {name: getattr(item, name) for name in item.__struct_fields__}
