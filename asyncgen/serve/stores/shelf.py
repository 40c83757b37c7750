"""A kind of objects, each in a JSON file of its own, in the order in which they were made.

Owns the files and that order. The API's times are whole seconds and a folder's listing has no order, so each file has
a number too, beside the object's own fields: `sequence`. Does not know what the objects are.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from asyncgen.serve.data_folder import read_whole, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Item = TypeVar("Item", bound=msgspec.Struct)


class _Place(msgspec.Struct, frozen=True):
    """The part of a file that is the shelf's; files of older servers have none."""

    sequence: int = 0


class Shelf(Generic[Item]):
    """All objects of a kind.

    Args:
        folder: holds them.
        pattern: of the files' paths in it, with `*` for the object's id.
        kind: what stands in the files.
        identify: an object's id.
        made_at: when it was made, for those of older servers.
    """

    def __init__(
        self,
        folder: Path,
        pattern: str,
        kind: type[Item],
        *,
        identify: Callable[[Item], str],
        made_at: Callable[[Item], int],
    ) -> None:
        self._folder, self._pattern, self._identify = folder, pattern, identify
        found = [(read_whole(path, _Place).sequence, read_whole(path, kind)) for path in folder.glob(pattern)]
        found.sort(key=lambda entry: (entry[0], made_at(entry[1])))
        self._items = {identify(item): item for _, item in found}
        self._sequence = {identify(item): number for number, item in found}
        self._next = itertools.count(found[-1][0] + 1 if found else 1)

    def newest_first(self) -> list[Item]:
        return list(reversed(self._items.values()))

    def get(self, identifier: str) -> Item | None:
        return self._items.get(identifier)

    def put(self, item: Item) -> None:
        """Add an object or replace the one of its id, on disk too."""
        identifier = self._identify(item)
        if identifier not in self._sequence:
            self._sequence[identifier] = next(self._next)
        write_whole(self._path(identifier), {**_fields(item), "sequence": self._sequence[identifier]})
        self._items[identifier] = item

    def replace_in_memory(self, item: Item) -> None:
        """Likewise for one that is there, but only until the server ends."""
        self._items[self._identify(item)] = item

    def remove(self, identifier: str) -> None:
        del self._items[identifier]
        self._path(identifier).unlink(missing_ok=True)

    def _path(self, identifier: str) -> Path:
        return self._folder / self._pattern.replace("*", identifier.replace(":", "_"))


def _fields(item: msgspec.Struct) -> dict[str, object]:
    return {name: getattr(item, name) for name in item.__struct_fields__}
