"""Workbooks: bounded before they are read, every damage told with its row, cells as people see them."""

from __future__ import annotations

import tempfile
import zipfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncgen.dataset.files import sheets
from asyncgen.dataset.files.sheets import about_empty_cells, cell_text, sheet_rows
from asyncgen.errors import AsyncgenError

openpyxl = pytest.importorskip("openpyxl")
SHEET = "xl/worksheets/sheet1.xml"
HEAD = '<row r="1"><c r="A1" t="inlineStr"><is><t>prompt</t></is></c></row>'


def workbook(path: Path, *rows: list[Any]) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


def with_rows(path: Path, xml: str) -> Path:
    """A workbook whose sheet has these rows, as XML."""
    workbook(path, ["x"])
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts[SHEET] = (
        '<?xml version="1.0"?><worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
        f"<sheetData>{xml}</sheetData></worksheet>"
    ).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def read(path: Path) -> list[list[str]]:
    return list(sheet_rows(path, cell_text))


def test_cells_are_what_json_would_have(tmp_path: Path) -> None:
    cells = [1, 2.0, 0.7, True, date(2024, 2, 29), datetime(2024, 2, 29, 12, 30), "x"]  # noqa: DTZ001 - cells have none
    assert read(workbook(tmp_path / "a.xlsx", cells)) == [
        ["1", "2", "0.7", "true", "2024-02-29", "2024-02-29 12:30:00", "x"]
    ]


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        ("Line one_x000D_\nLine two", "Line one\nLine two"),
        ("_x005F_x000D_", "_x000D_"),
        ("_xD83D__xDE00_", "😀"),
        ("_xD83D_", "\ufffd"),
        ("snake_x_case _xyz_", "snake_x_case _xyz_"),
    ],
)
def test_escapes_stand_for_their_characters(tmp_path: Path, stored: str, text: str) -> None:
    assert read(workbook(tmp_path / "a.xlsx", [stored])) == [[text]]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ('<row r="1000000000"><c r="A1000000000"><v>1</v></c></row>', "more than 1,048,576 rows"),
        ('<row r="2"><c r="ZZZ2"><v>1</v></c></row>', "more than 16,384 cells"),
        ('<row r="abc"><c r="A2"><v>1</v></c></row>', "row 2 of the first sheet"),
        ('<row r="2"><c r="A2" t="s"><v>99999</v></c></row>', "row 2 of the first sheet"),
        ('<row r="2"><c r="A2"><v>1e400</v></c></row>', "row 2 of the first sheet"),
        ('<row r="2"><c r="A2"><v>x</v></c></row>', "row 2 of the first sheet"),
        ('<row r="2"><c r="A2"', "or it is damaged"),
    ],
)
def test_each_damage_is_told_with_its_row(tmp_path: Path, rows: str, words: str) -> None:
    path = with_rows(tmp_path / "a.xlsx", HEAD + rows)
    with pytest.raises(AsyncgenError) as raised:
        read(path)
    assert words in f"{raised.value.what} {raised.value.cause}"
    assert raised.value.code == "bad_data"


def test_what_unpacks_to_more_than_the_bound_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = workbook(tmp_path / "a.xlsx", ["x"])
    monkeypatch.setattr(sheets, "LARGEST_BYTES", 1000)
    with pytest.raises(AsyncgenError, match="too large for a sheet"):
        read(path)


def test_empty_cells_far_to_the_right_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "MOST_CELLS", 20_000)
    path = with_rows(tmp_path / "a.xlsx", "".join(f'<row r="{n}"><c r="XFD{n}"><v>1</v></c></row>' for n in (1, 2)))
    with pytest.raises(AsyncgenError, match="too large for a sheet"):
        read(path)


def test_formulas_without_values_and_merged_cells_are_told(tmp_path: Path) -> None:
    with pytest.raises(AsyncgenError, match="2 cells of .* contain formulas without values"):  # noqa: RUF043 - a pattern
        about_empty_cells(workbook(tmp_path / "a.xlsx", ["prompt", "completion"], ["=A1", "x"], ["=A2", "y"]))
    book = openpyxl.Workbook()
    book.active.append(["prompt", "completion"])
    book.active.merge_cells("A2:A4")
    book.save(tmp_path / "b.xlsx")
    assert "A2:A4" in about_empty_cells(tmp_path / "b.xlsx")
    assert not about_empty_cells(workbook(tmp_path / "c.xlsx", ["prompt", "completion"], ["a", None]))


@given(st.lists(st.sampled_from(
    ["<row", ' r="3"', ">", "<c", ' r="B2"', ' t="s"', ' t="d"', ' t="b"', ' t="e"', ' s="9"', "<v>", "1", "x", "</v>",
     "</c>", "</row>", "<is><t>a</t></is>", "<f>A1</f>", "&", "&#0;"]
), max_size=20).map("".join))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_any_sheet_gives_rows_or_an_error_of_ours(xml: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = with_rows(Path(folder) / "a.xlsx", xml)
        try:
            rows = read(path)
        except AsyncgenError:
            return
        assert all(isinstance(cell, str) for row in rows for cell in row)
