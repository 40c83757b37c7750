"""Lines of somebody else's file: numbers that are right, and clear errors."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen import text_files as text_lines
from asyncgen.errors import AsyncgenError, UsageError
from asyncgen.text_files import text_lines as read


def write(folder: Path, content: bytes) -> Path:
    path = folder / "file.txt"
    path.write_bytes(content)
    return path


def test_every_kind_of_line_end_ends_a_line(tmp_path: Path) -> None:
    path = write(tmp_path, b"a\nb\r\nc\rd\r\re\n\nf")
    assert list(read(path)) == [
        (1, "a\n"), (2, "b\r\n"), (3, "c\r"), (4, "d\r"), (5, "\r"), (6, "e\n"), (7, "\n"), (8, "f"),
    ]  # fmt: skip


@given(st.text(st.sampled_from("ab\r\n\u2028\x0b"), max_size=20))
def test_the_lines_together_are_the_file_and_only_line_ends_end_them(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = list(read(write(Path(folder), text.encode())))
    assert "".join(line for _, line in lines) == text
    assert [number for number, _ in lines] == list(range(1, len(lines) + 1))
    for _, line in lines[:-1]:
        assert line.endswith(("\n", "\r"))
        assert not set(line.removesuffix("\r\n")[:-1]) & {"\n", "\r"} or line.endswith("\r\n")


def test_bytes_that_are_not_utf_8_are_told_with_line_and_column(tmp_path: Path) -> None:
    path = write(tmp_path, b"good\n" + "Café\n".encode("latin-1"))
    with pytest.raises(AsyncgenError) as raised:
        list(read(path))
    assert raised.value.what == f"{path}:2: not UTF-8: byte 0xe9 at column 4"
    assert "iconv" in str(raised.value.help_text)


def test_a_byte_order_mark_is_an_error_unless_it_is_expected(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbfa\nb\n")
    with pytest.raises(AsyncgenError, match=r"file\.txt:1: the file begins with a byte order mark"):
        list(read(path))
    assert list(read(path, byte_order_mark=True)) == [(1, "a\n"), (2, "b\n")]


def test_a_line_that_is_too_long_is_told_with_its_number_and_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_lines, "LONGEST_LINE_BYTES", 1 << 20)
    path = write(tmp_path, b"short\n" + b"x" * (1 << 22))
    with pytest.raises(AsyncgenError, match=r"file\.txt:2: the line is longer than 1 MiB"):
        list(read(path))


def test_what_is_no_file_is_an_error_of_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        list(read(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="is a directory"):
        list(read(tmp_path))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_with_a_byte_order_mark_is_read(tmp_path: Path, encoding: str) -> None:
    mark = {"utf-16": "", "utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}[encoding]
    path = write(tmp_path, (mark + "Käse\r\n\u0a0a😀\nend").encode(encoding))
    assert list(read(path)) == [(1, "Käse\r\n"), (2, "\u0a0a😀\n"), (3, "end")]


@pytest.mark.parametrize(
    ("content", "encoding"),
    [("prompt,completion\n".encode("utf-16-le"), "utf-16le"), ("prompt,completion\n".encode("utf-16-be"), "utf-16be"),
     ("a,b\n".encode("utf-32"), "utf-32"), (b"prompt\nCaf\xe9\n", "windows-1252")],
)  # fmt: skip
def test_other_encodings_are_told_with_a_command_that_converts(tmp_path: Path, content: bytes, encoding: str) -> None:
    path = tmp_path / "it's.txt"
    path.write_bytes(content)
    with pytest.raises(AsyncgenError) as raised:
        list(read(path))
    command = str(raised.value.help_text).partition(": ")[2]
    subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, check=True)
    assert encoding in command
    assert (tmp_path / "copy.txt").read_text(encoding="utf-8").strip()


def test_utf_16_that_is_broken_is_told(tmp_path: Path) -> None:
    with pytest.raises(AsyncgenError, match="UTF-16"):
        list(read(write(tmp_path, "\ufeffa\n".encode("utf-16-le") + b"\x00\xd8a\0\n\0")))


def test_zeros_alone_are_not_called_utf_16(tmp_path: Path) -> None:
    assert not text_lines.is_utf16(write(tmp_path, b"\0" * 5000))


def test_pipes_and_devices_are_refused_and_waited_for_by_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    for path in (tmp_path / "pipe.txt", Path(os.devnull)):
        with pytest.raises(UsageError, match="pipe or a device"):
            list(read(path))


def test_names_that_no_file_can_have_are_errors_of_usage(tmp_path: Path) -> None:
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(UsageError, match="cannot be read"):
            list(read(tmp_path / name))
