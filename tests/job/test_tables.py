import contextlib
import csv
import io
import json
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncgen.job.cells import TableError, text_lines
from asyncgen.job.tables import Table, open_table

rows = st.lists(st.tuples(st.text(), st.text()), max_size=6)
FIXED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def table_of(path: Path, *columns: str) -> Table:
    file = open_table(path)
    return file.table(columns or file.columns, columns or file.columns)


@FIXED_FOLDER
@given(
    rows.filter(lambda rows: all("\r" not in cell for row in rows for cell in row) and any(a.strip() for a, _ in rows))
)
def test_csv_rows_come_out_as_they_went_in_and_any_one_is_found_again(
    tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    table = table_of(written(tmp_path / "t.csv", text.getvalue()))
    kept = [row for row in rows if any(cell.strip() for cell in row)]
    assert table.columns == ("a", "b")
    assert list(table) == kept
    assert [table[place] for place in range(len(table))] == kept


@FIXED_FOLDER
@given(rows)
def test_jsonl_rows_come_out_as_they_went_in_and_any_one_is_found_again(
    tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    rows = [("x", "y"), *rows]
    lines = b"\n\n".join(orjson.dumps({"a": a, "b": b}) for a, b in rows)
    table = table_of(written(tmp_path / "t.jsonl", lines))
    assert list(table) == rows
    assert [table[place] for place in range(len(table))] == rows


@FIXED_FOLDER
@given(st.sampled_from(["t.csv", "t.jsonl", "t.parquet"]), st.binary(max_size=300))
def test_any_bytes_are_a_table_or_an_error_in_our_words(tmp_path: Path, name: str, content: bytes) -> None:
    with contextlib.suppress(TableError):
        file = open_table(written(tmp_path / name, content))
        names = [column for column in file.columns if file.columns.count(column) == 1]
        table = file.table(names, names)
        assert [table[place] for place in range(len(table))] == list(table)


cells = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)
objects = st.lists(st.dictionaries(st.sampled_from("abc"), cells, min_size=1), min_size=1, max_size=4)


@FIXED_FOLDER
@given(st.sampled_from(["\n", "\r\n", "\r"]), objects)
def test_any_json_objects_are_rows_whatever_stands_in_columns_that_are_not_needed(
    tmp_path: Path, end: str, objects: list[dict[str, object]]
) -> None:
    lines = end.join(json.dumps(each) for each in objects)
    file = open_table(written(tmp_path / "t.jsonl", lines))
    table = file.table(file.columns, ())
    assert len(table) == len(objects)
    for row, each in zip(table, objects, strict=True):
        for name, text in zip(table.columns, row, strict=True):
            value = each.get(name)
            assert text == (value if isinstance(value, str) else text)
            assert (text == "") == (value in (None, ""))


def test_parquet_rows_come_out_as_they_went_in_over_row_groups(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq  # noqa: PLC0415 - an optional extra

    table = pa.table({"city": [f"c{number}" for number in range(10)], "size": list(range(10))})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=3)
    found = table_of(tmp_path / "t.parquet")
    expected = [(f"c{number}", str(number)) for number in range(10)]
    assert found.columns == ("city", "size")
    assert list(found) == expected
    assert [found[place] for place in range(len(found))] == expected


PARQUET_VALUES = {
    "date": (date(2026, 1, 2), "2026-01-02"),
    "moment": (datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),  # noqa: DTZ001 - a table without zones
    "flag": (True, "true"),
    "money": (Decimal("12.50"), "12.50"),
    "whole": (Decimal(12), "12"),
    "tags": (["a", "b"], '["a","b"]'),
    "nested": ({"a": [1, None]}, '{"a":[1,null]}'),
    "half": (0.5, "0.5"),
    "big": (2**63 - 1, "9223372036854775807"),
}


@pytest.mark.parametrize("name", PARQUET_VALUES)
def test_every_type_of_parquet_has_a_text(tmp_path: Path, name: str) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq  # noqa: PLC0415 - an optional extra

    value, text = PARQUET_VALUES[name]
    pq.write_table(pa.table({name: [value]}), tmp_path / "t.parquet")
    assert list(table_of(tmp_path / "t.parquet")) == [(text,)]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["Bonn", None], "row 2: column 'city' is empty"),
        ([1.0, float("nan")], "row 2: column 'city': nan is not a valid number"),
        ([b"\x00"], "row 1: column 'city': binary data"),
        ([], "no rows"),
    ],
)
def test_a_parquet_cell_that_is_needed_and_has_no_text_is_named(
    tmp_path: Path, values: list[object], words: str
) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq  # noqa: PLC0415 - an optional extra

    pq.write_table(pa.table({"city": values}), tmp_path / "t.parquet")
    with pytest.raises(TableError, match=words):
        table_of(tmp_path / "t.parquet", "city")
    if values:
        assert len(open_table(tmp_path / "t.parquet").table(["city"], ())) == len(values)


@pytest.mark.parametrize("values", [["Paris", "", "\u00e9\u4e2d"], [3, -(2**62), 0]])
def test_a_parquet_column_without_empty_cells_reads_as_one_with_them(tmp_path: Path, values: list[Any]) -> None:
    import pyarrow as pa  # noqa: PLC0415 - an optional extra
    import pyarrow.parquet as pq  # noqa: PLC0415 - an optional extra

    pq.write_table(pa.table({"whole": values, "holed": values}), tmp_path / "t.parquet")
    whole = list(table_of(tmp_path / "t.parquet"))
    pq.write_table(pa.table({"whole": [*values, None], "holed": [*values, None]}), tmp_path / "h.parquet")
    holed = list(open_table(tmp_path / "h.parquet").table(["whole", "holed"], ()))
    assert whole == holed[:-1] == [(str(value), str(value)) for value in values]


def test_nanoseconds_and_durations_of_parquet_are_read(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq  # noqa: PLC0415 - an optional extra

    table = pa.table({"t": pa.array([1_000_000_001], pa.timestamp("ns")), "d": pa.array([5], pa.duration("ms"))})
    pq.write_table(table, tmp_path / "t.parquet", store_schema=True)
    assert list(table_of(tmp_path / "t.parquet")) == [("1970-01-01T00:00:01", "5")]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert open_table(written(tmp_path / "t.csv", b"\xef\xbb\xbfa,b\n1,2\n")).columns == ("a", "b")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a,b\r1,2\r3,4\r", [("1", "2"), ("3", "4")]),
        ("\n\na,b\n1,2\n\n , \n3,4", [("1", "2"), ("3", "4")]),
        ('"a","b"\n1,"x\ny"\n3,4\n', [("1", "x\ny"), ("3", "4")]),
        ("a;b\n1;2,5\n", [("1", "2,5")]),
        ("a\tb\n1\t2\n", [("1", "2")]),
        ("sep=;\na;b\n1;2\n", [("1", "2")]),
    ],
)
def test_csv_files_as_people_have_them_are_read(tmp_path: Path, content: str, expected: list[tuple[str, str]]) -> None:
    table = table_of(written(tmp_path / "t.csv", content))
    assert table.columns == ("a", "b")
    assert list(table) == expected
    assert [table[place] for place in range(len(table))] == expected


def test_a_header_may_go_over_two_lines(tmp_path: Path) -> None:
    table = table_of(written(tmp_path / "t.csv", 'city,"a\nnote"\nBonn,x\nOslo,y\n'))
    assert table.columns == ("city", "a\nnote")
    assert [table[place] for place in range(2)] == [("Bonn", "x"), ("Oslo", "y")]


def test_a_cell_may_be_longer_than_the_limit_of_the_csv_module(tmp_path: Path) -> None:
    before = csv.field_size_limit(131_072)
    try:
        assert list(table_of(written(tmp_path / "t.csv", f"a\n{'x' * 200_000}\n"))) == [("x" * 200_000,)]
    finally:
        csv.field_size_limit(before)


def test_numbers_of_jsonl_keep_all_their_digits(tmp_path: Path) -> None:
    line = '{"a": 1, "b": 0.5, "c": 12345678901234567890123, "d": [12345678901234567890123]}\n'
    expected = ("1", "0.5", "12345678901234567890123", "[12345678901234567890123]")
    assert list(table_of(written(tmp_path / "t.jsonl", line))) == [expected]


def test_a_record_has_its_variables_as_columns(tmp_path: Path) -> None:
    table = open_table(written(tmp_path / "records.jsonl", '{"key": "k", "variables": {"city": "Bonn"}}\n'))
    assert list(table.table(["city", "key"], ["city"])) == [("Bonn", "k")]


@pytest.mark.parametrize(
    ("name", "content", "line", "words"),
    [
        ("t.csv", "a,b\n1,2\n3\n", 3, "1 cell, expected 2"),
        ("t.csv", b"a,b\n1,\xff\n", 2, "not UTF-8 at byte 3 of the line"),
        ("t.csv", "x\ny\n".encode("utf-16"), 1, "UTF-16"),
        ("t.csv", "city,n\nBonn,1\n".encode("utf-16-be"), 1, "UTF-16"),
        ("t.jsonl", '{"city": "Bonn"}\n'.encode("utf-16-le"), 1, "UTF-16"),
        ("t.csv", "city,n\nBonn,1\n".encode("utf-32"), 1, "UTF-32"),
        ("t.csv", "a,b\n1\n", 2, "1 cell,"),
        ("t.csv", 'a\n"x"y\n', 2, "not CSV"),
        ("t.csv", 'a\nx\n"y\n', 3, "a quote is not closed"),
        ("t.csv", "a,b\n", None, "no rows"),
        ("t.csv", "", 1, "empty"),
        ("t.jsonl", '{"a": 1}\n[]\n', 2, "expected a JSON object"),
        ("t.jsonl", '{"a": 1}\n{"b": 1}\n', 2, "column 'a' is empty"),
        ("t.jsonl", '{"a": 1}\nno\n', 2, "ends early"),
        ("t.jsonl", '{"a": null}\n', 1, "column 'a' is empty"),
        ("t.jsonl", '{"a": NaN}\n', 1, "not JSON"),
        ("t.jsonl", '{"a": ' + "[" * 100_000 + "\n", 1, "deep|early"),
        ("t.jsonl", "\n", None, "no rows"),
        ("t.xml", "", None, "must end in"),
    ],
)
def test_what_is_no_table_is_refused_with_its_line(
    tmp_path: Path, name: str, content: str | bytes, line: int | None, words: str
) -> None:
    with pytest.raises(TableError, match=words) as caught:
        table_of(written(tmp_path / name, content))
    assert caught.value.line == line


def test_zeros_alone_are_not_called_utf_16(tmp_path: Path) -> None:
    with pytest.raises(TableError) as caught:
        table_of(written(tmp_path / "t.jsonl", b"\0" * 5000))
    assert "UTF-16" not in str(caught.value)


def test_a_text_of_parquet_that_is_not_utf_8_is_told_as_that(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq  # noqa: PLC0415 - an optional extra

    offsets, data = pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")
    broken = pa.Array.from_buffers(pa.string(), 1, [None, offsets, data])
    pq.write_table(pa.table({"a": broken}), tmp_path / "t.parquet")
    with pytest.raises(TableError, match="'a': a text that is not UTF-8"):
        table_of(tmp_path / "t.parquet")


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(TableError, match="not a Parquet file"):
        open_table(written(tmp_path / "t.parquet", "no"))


@pytest.mark.parametrize("content", ["\ufeffParis\nBerlin\n", "Paris\r\nBerlin\r\n", "Paris\rBerlin"])
def test_lines_end_in_any_of_the_three_ways(tmp_path: Path, content: str) -> None:
    lines = list(text_lines(written(tmp_path / "t.txt", content)))
    assert lines == [(1, "Paris"), (2, "Berlin")]
