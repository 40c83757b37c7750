"""What the server keeps comes back in the order in which it was made, however fast that was."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec

from asyncgen.serve.stores.shelf import Shelf

if TYPE_CHECKING:
    from pathlib import Path

SECOND = 1_700_000_000


class Thing(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    created_at: int = SECOND
    colour: str = ""


def shelf(folder: Path) -> Shelf[Thing]:
    return Shelf(folder, "*.json", Thing, identify=lambda thing: thing.id, made_at=lambda thing: thing.created_at)


def ids(things: Shelf[Thing]) -> str:
    return "".join(thing.id for thing in things.newest_first())


def test_things_of_one_second_keep_their_order(tmp_path: Path) -> None:
    for letter in "nvcaxqzbwk":  # no folder lists these in this order
        shelf(tmp_path).put(Thing(id=letter))
    assert ids(shelf(tmp_path)) == "kwbzqxacvn"


def test_changed_thing_stays_in_its_place(tmp_path: Path) -> None:
    things = shelf(tmp_path)
    for letter in "cab":
        things.put(Thing(id=letter))
    shelf(tmp_path).put(Thing(id="c", colour="red"))
    assert ids(shelf(tmp_path)) == "bac"
    found = shelf(tmp_path).get("c")
    assert found is not None
    assert found.colour == "red"


def test_removed_thing_is_gone_from_the_disk(tmp_path: Path) -> None:
    things = shelf(tmp_path)
    for letter in "ab":
        things.put(Thing(id=letter))
    things.remove("b")
    assert ids(things) == ids(shelf(tmp_path)) == "a"


def test_what_is_replaced_in_memory_is_forgotten_with_the_server(tmp_path: Path) -> None:
    things = shelf(tmp_path)
    things.put(Thing(id="a"))
    things.replace_in_memory(Thing(id="a", colour="red"))
    assert things.newest_first()[0].colour == "red"
    assert shelf(tmp_path).newest_first()[0].colour == ""


def test_files_of_older_servers_come_first_by_their_time(tmp_path: Path) -> None:
    for letter, second in (("a", 3), ("b", 1), ("c", 2)):
        (tmp_path / f"{letter}.json").write_text(json.dumps({"id": letter, "created_at": second}), encoding="utf-8")
    shelf(tmp_path).put(Thing(id="d", created_at=0))
    assert ids(shelf(tmp_path)) == "dacb"
