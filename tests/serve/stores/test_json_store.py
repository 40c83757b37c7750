"""What the server keeps comes back in the order in which it was made, however fast that was."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.errors import DiskError
from asyncgen.serve.stores.files import JsonStore, file_stem

if TYPE_CHECKING:
    from pathlib import Path

SECOND = 1_700_000_000


class Thing(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    created_at: int = SECOND
    colour: str = ""


def shelf(folder: Path) -> JsonStore[Thing]:
    return JsonStore(folder, "*.json", Thing, identify=lambda thing: thing.id, made_at=lambda thing: thing.created_at)


def ids(things: JsonStore[Thing]) -> str:
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


HOSTILE = [
    "a/b",
    "../../etc/passwd",
    "..",
    ".",
    "",
    "x" * 300,
    "ft:m/n:o::1",
    "\0",
    "Ä\ud800",
    "a b",
    "-rf",
    "CON",
    "~",
]


@pytest.mark.parametrize("identifier", HOSTILE)
def test_any_id_has_a_file_in_the_folder(tmp_path: Path, identifier: str) -> None:
    folder = tmp_path / "things"
    folder.mkdir()
    name = identifier.encode("utf-8", "replace").decode()  # as JSON can hold it
    shelf(folder).put(Thing(id=name))
    assert [path.parent for path in tmp_path.rglob("*.json")] == [folder]
    found = shelf(folder)
    assert found.get(name) is not None
    found.remove(name)
    assert not [*tmp_path.rglob("*.json")]


@given(st.text())
def test_no_two_hostile_ids_share_a_file_and_none_is_too_long(identifier: str) -> None:
    stem = file_stem(identifier)
    assert len(stem) <= 100
    assert "/" not in stem
    assert stem.strip(".")
    assert stem != file_stem(identifier + "/")


DAMAGED = [b"", b"{", b"\0" * 20, b"[]", b'{"id": 3}', b"\xff", b"[" * 100_000, b'{"id": "b", "created_at": 1e400}',
           b'{"id": "../../x"}', b'{"id": "other"}', b'{"id":"b","created_at":' + b"9" * 5000 + b"}"]  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_file_is_passed_over_and_stays(tmp_path: Path, content: bytes) -> None:
    shelf(tmp_path).put(Thing(id="a"))
    (tmp_path / "b.json").write_bytes(content)
    assert ids(shelf(tmp_path)) == "a"
    assert (tmp_path / "b.json").read_bytes() == content


def test_file_that_is_none_is_passed_over(tmp_path: Path) -> None:
    shelf(tmp_path).put(Thing(id="a"))
    (tmp_path / "b.json").mkdir()
    (tmp_path / "c.json").symlink_to(tmp_path / "nowhere")
    assert ids(shelf(tmp_path)) == "a"


def test_full_disk_keeps_no_new_thing_and_changes_an_old_one_in_memory(tmp_path: Path) -> None:
    folder = tmp_path / "things"
    folder.mkdir()
    things = shelf(folder)
    things.put(Thing(id="a"))
    (folder / "a.json").unlink()
    folder.rmdir()  # whoever runs the tests may write anywhere
    with pytest.raises(DiskError):
        things.put(Thing(id="b"))
    with pytest.raises(DiskError):
        things.put(Thing(id="a", colour="red"))
    assert [(thing.id, thing.colour) for thing in things.newest_first()] == [("a", "red")]
