"""Facts about files replaced whole."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncgen.errors import DiskError
from asyncgen.run.whole_file import read_whole, remove_leftovers, replacing, temporary_for

if TYPE_CHECKING:
    from collections.abc import Callable


def test_the_new_content_takes_the_old_ones_place(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"old", b"new"):
        with replacing(path) as file:
            file.write(content)
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208 - names are wanted


def test_the_file_has_the_mode_that_the_users_mask_gives(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        with replacing(tmp_path / "file") as file:
            file.write(b"x")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_an_error_in_the_block_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half" * (1 // 0))
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"file": b"old"}


@pytest.mark.parametrize("step", ["fsync", "open", "rename"])
def test_a_step_that_fails_leaves_the_old_content_and_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*args: object, **kwargs: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(DiskError) as refused, replacing(path) as file:
        file.write(b"new")
    assert refused.value.cause == os.strerror(errno.ENOSPC)
    assert "free some space" in (refused.value.help_text or "")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"file": b"old"}


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    left, kept = temporary_for(tmp_path / "run.json"), tmp_path / ".notes.tmp"
    left.touch()
    kept.touch()
    mine = tmp_path / ".mine.12.tmp"
    mine.touch()
    remove_leftovers(tmp_path, {"run.json"}.__contains__)
    assert sorted(tmp_path.iterdir()) == [mine, kept]


def test_a_temporary_name_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    temporary_for(tmp_path / "file").symlink_to(victim)
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert victim.read_bytes() == b"mine"


def test_a_small_file_that_is_not_small_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_whole(path, 5) == b"12345"
    with pytest.raises(DiskError, match="larger than 4 bytes"):
        read_whole(path, 4)


def test_a_link_stays_a_link_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "far.csv", tmp_path / "near.csv"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with replacing(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_link_that_leads_nowhere_yet_makes_its_file(tmp_path: Path) -> None:
    link = tmp_path / "near.csv"
    link.symlink_to(tmp_path / "far.csv")
    with replacing(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert (tmp_path / "far.csv").read_bytes() == b"new"


@pytest.mark.parametrize("through_link", [False, True])
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_pipes_folders_and_devices_are_not_replaced(
    tmp_path: Path, make: Callable[[Path], None], *, through_link: bool
) -> None:
    path = tmp_path / "there"
    make(path)
    kind = path.lstat().st_mode
    if through_link:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    with pytest.raises(DiskError, match="not a regular file"), replacing(path):
        pass
    assert (tmp_path / "there").lstat().st_mode == kind


def test_a_name_as_long_as_a_file_may_have_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    with replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_what_others_left_stays(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    left = temporary_for(tmp_path / "real" / "run.json")
    left.touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    remove_leftovers(tmp_path / "link", {"run.json"}.__contains__)
    left.with_name(".run.json.7.tmp").symlink_to(left)
    remove_leftovers(tmp_path / "real", {"run.json"}.__contains__)
    assert [path.name for path in (tmp_path / "real").iterdir()] == [".run.json.7.tmp"]
