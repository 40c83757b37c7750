"""Facts about files replaced whole. Run: pytest tests/test_whole_file.py."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from asyncgen.errors import DiskError
from asyncgen.run.whole_file import read_whole, remove_leftovers, replacing, temporary_for

if TYPE_CHECKING:
    from pathlib import Path


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
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]


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
