import csv
import io
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncgen.job.tables import TableError, open_table, read_lines

rows = st.lists(st.tuples(st.text(), st.text()), max_size=6)
FIXED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@FIXED_FOLDER
@given(rows.filter(lambda rows: all("\x00" not in cell and "\r" not in cell for row in rows for cell in row)))
def test_csv_rows_come_out_as_they_went_in_and_any_one_is_found_again(
    tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    table = open_table(written(tmp_path / "t.csv", text.getvalue()))
    assert table.columns == ("a", "b")
    assert list(table) == rows
    assert [table[place] for place in range(len(table))] == rows


@FIXED_FOLDER
@given(rows)
def test_jsonl_rows_come_out_as_they_went_in_and_any_one_is_found_again(
    tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    rows = [("x", "y"), *rows]
    lines = b"\n\n".join(orjson.dumps({"a": a, "b": b}) for a, b in rows)
    table = open_table(written(tmp_path / "t.jsonl", lines))
    assert list(table) == rows
    assert [table[place] for place in range(len(table))] == rows


def test_parquet_rows_come_out_as_they_went_in_over_row_groups(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq  # noqa: PLC0415 - an optional extra

    table = pa.table({"city": [f"c{number}" for number in range(10)], "size": list(range(10))})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=3)
    found = open_table(tmp_path / "t.parquet")
    expected = [(f"c{number}", str(number)) for number in range(10)]
    assert found.columns == ("city", "size")
    assert list(found) == expected
    assert [found[place] for place in range(len(found))] == expected


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert open_table(written(tmp_path / "t.csv", b"\xef\xbb\xbfa,b\n1,2\n")).columns == ("a", "b")


def test_numbers_become_text_as_json_writes_them(tmp_path: Path) -> None:
    assert list(open_table(written(tmp_path / "t.jsonl", '{"a": 1, "b": 0.5}\n'))) == [("1", "0.5")]


@pytest.mark.parametrize(
    ("name", "content", "line", "words"),
    [
        ("t.csv", "a,b\n1,2\n3\n", 3, "1 cells, expected 2"),
        ("t.csv", b"a,b\n1,\xff\n", 2, "not UTF-8"),
        ("t.csv", "a,a\n1,2\n", 1, "names"),
        ("t.csv", 'a\n"x"y\n', 2, "not CSV"),
        ("t.jsonl", '{"a": 1}\n[]\n', 2, "expected an object"),
        ("t.jsonl", '{"a": 1}\n{"b": 1}\n', 2, "no 'a'"),
        ("t.jsonl", '{"a": 1}\nno\n', 2, "not JSON"),
        ("t.jsonl", '{"a": null}\n', 1, "NoneType"),
        ("t.jsonl", '{"a": true}\n', 1, "bool"),
        ("t.xml", "", None, "must end in"),
    ],
)
def test_what_is_no_table_is_refused_with_its_line(
    tmp_path: Path, name: str, content: str | bytes, line: int | None, words: str
) -> None:
    with pytest.raises(TableError, match=words) as caught:
        open_table(written(tmp_path / name, content))
    assert caught.value.line == line


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(TableError, match="not a Parquet file"):
        open_table(written(tmp_path / "t.parquet", "no"))


def test_lines_are_stripped_and_blank_ones_passed_over(tmp_path: Path) -> None:
    assert read_lines(written(tmp_path / "t.txt", "\ufeffParis \r\n\n  Berlin\n")) == ["Paris", "Berlin"]
