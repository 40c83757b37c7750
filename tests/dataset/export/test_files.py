"""Exports hold the run's answers in the grid's order, and read back as what they were."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.dataset.export.files import FORMULA_BEGINNINGS, CsvStyle, _quoted, defused, export_file, ordered_records
from asyncgen.errors import DiskError, UsageError
from asyncgen.run.records import Record

if TYPE_CHECKING:
    from pathlib import Path

MakeRun = Callable[..., Any]  # the fixture's class stands in conftest, which cannot be imported

SPOKEN = {3: '=HYPERLINK("http://x")', 4: 'says "hi", twice', 5: "two\nlines", 6: "-5 %", 7: " =1"}


@pytest.fixture
def made(make_run: MakeRun) -> Any:
    """A run whose records came in another order than that of the grid."""
    filled = make_run().fill(
        lambda record: msgspec.structs.replace(record, completion=SPOKEN.get(record.index, record.completion))
    )
    return filled.write(filled.records[::-1])


def records(made: Any) -> list[Record]:
    return list(ordered_records(made.directory.record_files(), None))


def test_records_come_in_the_order_of_the_grid(made: Any) -> None:
    assert [record.index for record in records(made)] == list(range(36))


def test_of_the_same_place_the_earlier_record_comes_first(made: Any) -> None:
    made.write([msgspec.structs.replace(record, index=0) for record in made.records])
    assert records(made) == made.records


def test_records_of_an_earlier_form_of_the_job_are_left_out(made: Any, make_run: MakeRun) -> None:
    job = made.path.parent.joinpath("run.toml").read_text().replace('"Paris", ', "")
    grid = make_run(job=job).opened.grid
    assert {record.variables["city"] for record in ordered_records(made.directory.record_files(), grid)} == {
        "Brussels",
        "Berlin",
    }


def test_lines_that_are_blank_or_torn_are_read_over(made: Any) -> None:
    content = made.directory.records.read_bytes()
    made.directory.records.write_bytes(b"\n" + content.replace(b"\n", b"\n \n", 2) + b'{"key": "ha')
    assert len(records(made)) == 36


def test_csv_is_that_of_the_tutorial(made: Any, tmp_path: Path) -> None:
    exported = export_file(tmp_path / "a.csv", records(made), CsvStyle(raw=True))
    text = (tmp_path / "a.csv").read_text()
    assert text.startswith('prompt,completion\n"Grocery, Brussels","Answer 0 is for Grocery, Brussels."\n')
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows == [["prompt", "completion"], *([record.prompt, record.completion] for record in records(made))]
    assert (exported.rows, exported.defused) == (36, 0)


def test_fields_of_json_answers_are_columns(make_run: MakeRun, tmp_path: Path) -> None:
    answers = ['{"subject": "Hello", "lines": [1, 2]}', '```json\n{"body": "=1+1"}\n```', "no JSON", "[1]"]
    filled = make_run().fill(lambda record: msgspec.structs.replace(record, completion=answers[record.index % 4]))
    export_file(tmp_path / "a.csv", records(filled.write(filled.records)), CsvStyle(fields=True))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text(), newline="")))
    assert list(rows[0]) == ["prompt", "completion", "answer.subject", "answer.lines", "answer.body"]
    found = [tuple(row[f"answer.{name}"] for name in ("subject", "lines", "body")) for row in rows[:4]]
    assert found == [("Hello", "[1,2]", ""), ("", "", "'=1+1"), ("", "", ""), ("", "", "")]


def test_cells_that_a_spreadsheet_would_run_are_defused_and_counted(made: Any, tmp_path: Path) -> None:
    exported = export_file(tmp_path / "a.csv", records(made), CsvStyle())
    with (tmp_path / "a.csv").open(newline="") as file:
        completions = [row[1] for row in csv.reader(file)][1:]
    assert completions[3:8] == ["'" + SPOKEN[3], SPOKEN[4], SPOKEN[5], "'-5 %", " =1"]
    assert exported.defused == 2


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\0=1"])
def test_each_dangerous_beginning_is_defused(cell: str) -> None:
    assert defused(cell) == f"'{cell}"


@given(st.text())
def test_no_cell_begins_as_a_formula_and_harmless_ones_stay(cell: str) -> None:
    assert not defused(cell).startswith(FORMULA_BEGINNINGS)
    if not cell.startswith(FORMULA_BEGINNINGS):
        assert defused(cell) == cell


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=2, max_size=2))
def test_cells_read_back_as_they_were(cells: list[str]) -> None:
    line = ",".join(map(_quoted, cells)) + "\n"
    assert list(csv.reader(io.StringIO(line, newline=""))) == [cells]


def test_jsonl_holds_every_field_with_one_type(made: Any, tmp_path: Path) -> None:
    first, second, *others = records(made)
    call = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    full = msgspec.structs.replace(
        second, check_failures=["max_words", "schema"], reasoning="Hm.", tool_calls=call, request_id=None
    )
    export_file(tmp_path / "a.jsonl", [first, full, *others], CsvStyle())
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_bytes().splitlines()]
    assert [(row["key"], row["completion"]) for row in rows] == [(each.key, each.completion) for each in records(made)]
    assert len({tuple((name, type(value)) for name, value in row.items()) for row in rows}) == 1
    assert (rows[0]["check_failures"], rows[1]["check_failures"]) == ("", "max_words, schema")
    assert json.loads(rows[1]["tool_calls"]) == call
    assert rows[0]["usage"] == msgspec.to_builtins(first.usage)


def test_parquet_has_every_field_and_each_variable_as_columns(made: Any, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    export_file(tmp_path / "a.parquet", records(made), CsvStyle())
    rows = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["completion"] for row in rows] == [record.completion for record in records(made)]
    assert rows[0] | {} == {
        "index": 0, "repeat": 0, "prompt": "Grocery, Brussels", "completion": "Answer 0 is for Grocery, Brussels.",
        "model": "some-model-2026", "finish_reason": "stop", "attempts": 1, "latency_s": 0.25,
        "created": 1_790_000_000, "prompt_tokens": 100, "cached_tokens": 0, "completion_tokens": 10,
        "reasoning_tokens": 0, "check_failures": [], "key": made.records[-1].key, "sector": "Grocery",
        "city": "Brussels",
    }  # fmt: skip


def test_a_variable_named_as_a_field_gets_another_name(make_run: MakeRun, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    job = 'name = "x"\n[grid]\nmodel = ["a", "b"]\n[prompt]\nuser = "{model}"\n'
    export_file(tmp_path / "a.parquet", records(make_run(job=job).fill()), CsvStyle())
    rows = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert [(row["model"], row["variable_model"]) for row in rows] == [
        ("some-model-2026", "a"),
        ("some-model-2026", "b"),
    ]


def test_without_pyarrow_the_extra_is_named(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError) as raised:
        export_file(tmp_path / "a.parquet", records(made), CsvStyle())
    assert "asyncgen[parquet]" in str(raised.value.help_text)
    assert not (tmp_path / "a.parquet").exists()


@pytest.mark.parametrize("name", ["a.txt", "a.xlsx", "answers"])
def test_another_extension_is_an_error_of_usage(made: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"\.csv|no extension|extension"):
        export_file(tmp_path / name, records(made), CsvStyle())


def test_an_export_that_breaks_off_leaves_the_earlier_file(made: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("before")

    def breaking() -> Any:
        yield from records(made)[:5]
        raise DiskError("the records could not be read")

    with pytest.raises(DiskError):
        export_file(path, breaking(), CsvStyle())
    assert path.read_text() == "before"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.csv", "run", "run.toml"]


def test_a_place_that_cannot_be_written_is_told(made: Any, tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="could not be"):
        export_file(tmp_path / "no" / "such" / "a.csv", records(made), CsvStyle())


def test_csv_has_a_column_for_each_variable_where_asked(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run().fill()
    export_file(tmp_path / "a.csv", made.records, CsvStyle(variables=True))
    lines = (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "sector,city,prompt,completion"
    assert lines[1].startswith("Grocery,Brussels,")
