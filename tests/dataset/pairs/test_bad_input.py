"""What is wrong with a file of pairs is said with its place, and the file is never changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncgen import text_files as delimited
from asyncgen import text_files as text_lines
from asyncgen.errors import AsyncgenError, UsageError

Prepare = Callable[[Path], Any]

HEAD = b"prompt,completion\n"
TWO = b'{"prompt":"c","completion":"d"}\n{"prompt":"e","completion":"f"}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"\n \n", "is empty"),
        ("a.csv", HEAD, "no row with a completion"),
        ("a.csv", HEAD + b"a,\nb,\n", "no row with a completion"),
        ("a.csv", HEAD + b"a,b\n", "only one row"),
        ("a.csv", b"question,answer\na,b\n", "no column `prompt`"),
        ("a.csv", HEAD + b"a,b\nc,d,e\n", r"a\.csv:3: the row has 3 cells"),
        ("a.csv", HEAD + b'a,b\nc,"d\ne,f\n', r"a\.csv:3: a quote opened in this row is not closed"),
        ("a.csv", HEAD + "é,b\n".encode("latin-1"), r"a\.csv:2: not UTF-8"),
        ("a.csv", "prompt,completion\n".encode("utf-16"), "no row with a completion"),
        ("a.tsv", b"prompt\tcompletion\na\tb\tc\td\n\n\nx\t\ty\tz\tu\n", r"a\.tsv:5: the row has 5 cells"),
        ("a.jsonl", b"", "no column `prompt`"),
        ("a.jsonl", TWO + b"{oops\n", r"a\.jsonl:3: it is not JSON"),
        ("a.jsonl", TWO + b"\n[1]\n", r"a\.jsonl:4: it is not a JSON object"),
        ("a.jsonl", b"\xef\xbb\xbf" + TWO, r"a\.jsonl:1: the file begins with a byte order mark"),
        ("a.jsonl", TWO + rb'{"prompt":"\ud800","completion":"x"}', r"a\.jsonl:3: half of a surrogate pair"),
        ("a.jsonl", TWO + b'{"prompt":99999999999999999999,"completion":"x"}', r"a\.jsonl:3: the number 9999"),
        ("a.jsonl", b'{"prompt":"a","completion":"b"}\n', "is not a table"),
        ("a.jsonl", TWO + b"[" * 100_000 + b"\n", r"a\.jsonl:3: it is not JSON"),
        ("a.jsonl", TWO + b'{"prompt":' + b"9" * 5000 + b"}\n", r"a\.jsonl:3: it is not JSON"),
        ("a.json", b'[\n {"prompt": "a",\n  oops}]', r"a\.json:3: no JSON"),
        ("a.json", b'{"prompt":["a","b"],"completion":["c"]}', "is not a table"),
        ("a.json", b'"hello"', "is not a table"),
        ("a.json", b"[1, 2]", "is not a table"),
        ("a.txt", b"", "no row with a completion"),
        ("a.txt", b"\xef\xbb\xbfa\n", r"a\.txt:1: the file begins with a byte order mark"),
        ("a.xlsx", b"PK no workbook", "is not an Excel workbook"),
        ("a.pdf", b"x", "has the extension .pdf"),
        ("noextension", b"x", "has no extension"),
    ],
)
def test_each_fault_is_told_with_its_place(
    prepare: Prepare, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AsyncgenError, match=message):
        prepare(path)
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_directory_and_a_missing_file_are_errors_of_usage(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for path in (tmp_path / "folder.csv", tmp_path / "nothing.csv", tmp_path / "nothing.xlsx"):
        with pytest.raises(UsageError):
            prepare(path)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.txt"])
def test_a_line_without_end_is_told_with_its_number_before_it_is_read_whole(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(text_lines, "LONGEST_LINE_BYTES", 1 << 20)
    path = tmp_path / name
    path.write_bytes((HEAD if name == "a.csv" else b'{"prompt":"a","completion":"b"}\n') + b"x" * (1 << 21))
    with pytest.raises(AsyncgenError, match=f"{name}:2: the line is longer than 1 MiB"):
        prepare(path)


def test_a_quote_that_swallows_the_file_ends_at_the_bound_on_a_cell(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "LONGEST_LINE_BYTES", 1000)
    path = tmp_path / "a.csv"
    path.write_bytes(HEAD + b'a,"b\n' + b"c,d\n" * 1000)
    with pytest.raises(AsyncgenError, match=r"a\.csv:2: a cell is longer"):
        prepare(path)


def test_without_openpyxl_the_extra_is_named(prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"x")
    with pytest.raises(UsageError) as raised:
        prepare(path)
    assert "asyncgen[xlsx]" in str(raised.value.help_text)


def test_a_result_that_cannot_be_written_leaves_nothing_behind(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(HEAD + b"a,b\nc,d\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AsyncgenError, match="could not be written"):
        prepare(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]
