"""`prepare` writes the same bytes as the legacy tool, and refuses what that refuses."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncgen.dataset.pairs.prepare import PreparedPairs
from asyncgen.errors import AsyncgenError

Oracle = Any  # the fixture's class stands in conftest, which cannot be imported
Prepare = Callable[[Path], tuple[PreparedPairs, dict[str, bytes]]]

HEAD = "prompt,completion\n"
TWO = '{"prompt":"c","completion":"d"}\n{"prompt":"e","completion":"f"}\n'


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def pairs(*rows: tuple[str, str]) -> str:
    return jsonl(*({"prompt": prompt, "completion": completion} for prompt, completion in rows))


MANY = [(f"Shop {number}, Paris", f"Text of shop {number}, new and short.") for number in range(120)]
LABELS = [(f"text {number} ###", f" {'good' if number % 3 else 'bad'}") for number in range(50)]

CORPUS: dict[str, str | bytes] = {
    # the formats
    "format.csv": HEAD + 'a,b\nc,d/e"x\n',
    "format.tsv": "prompt\tcompletion\na\tb, c\nd\te\n",
    "upper.CSV": HEAD + "a,b\nc,d\n",
    "format.txt": "first line\nsecond line\n",
    "no_last_line_end.txt": "first\nsecond",
    "returns.txt": "a\rb\r\nc\n\nd",
    "words.txt": "NA\nnull\n \nq",
    "format.json": '[{"prompt":"a","completion":"b"},{"prompt":"c","completion":"d"}]',
    "indented.json": json.dumps([{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}], indent=2),
    "lines.json": TWO,
    "document.jsonl": '[{"prompt":"a","completion":"b"},{"prompt":"c","completion":"d"}]',
    "lists.json": '{"prompt":["a","b"],"completion":["c","d"]}',
    "lists.jsonl": '{"prompt":["a","b"],"completion":["c","d"]}',
    "labels.json": '{"prompt":{"1":"a","0":"b"},"completion":{"0":"c","2":"d","1":"e"}}',
    "frame.json": '{"prompt":{"0":"a","1":"b"},"completion":{"0":"c","1":"d"}}',
    "one_value.json": '{"prompt":["a","b"],"completion":"z"}',
    "one_value_for_prompts.json": '{"prompt":"z","completion":["a","b"]}',
    "uneven.json": '{"prompt":["a","b"],"completion":["c"]}',
    "one_row.jsonl": '{"prompt":"a","completion":"b"}\n',
    "one_row.csv": HEAD + "a,b\n",
    "no_rows.jsonl": "",
    "no_rows.json": "",
    "no_header.csv": "",
    "not_json.jsonl": TWO + "{'prompt':'a','completion':'b'}\n",
    "crlf.jsonl": '{"prompt":"a","completion":"b"}\r\n\r\n  \r\n' + TWO,
    "control.jsonl": '{"prompt":"a\tb\x01","completion":"b"}\n' + TWO,
    "repeated_key.jsonl": '{"prompt":"a","prompt":"z","completion":"b"}\n' + TWO,
    "constants.jsonl": '{"prompt":NaN,"completion":"b"}\n{"prompt":-Infinity,"completion":"g"}\n' + TWO,
    "array_row.jsonl": TWO + "[1, 2]\n",
    "mark.jsonl": "\ufeff" + TWO,
    # reading: cells of CSV
    "words.csv": HEAD + 'NA,x1\nnull,x2\nnan,x3\n"NA",x4\n NA,x5\nq,n/a\n',
    "blank_lines.csv": HEAD + 'a,1\n\n   \n"  "\n""\nb,2\n \t \n',
    "blank_lines.tsv": "prompt\tcompletion\n a \tb\n\t\n \nc\td\n",
    "blank_first.csv": "\n  \n" + HEAD + " a , b \n\t\nc,d\n  ,\ne,f\n",
    "unnamed_column.csv": HEAD + "i1,a,1\ni2,b,2\n",
    "two_unnamed_columns.csv": HEAD + "1,x,a,b\n2,y,c,d\n3,z,e\n",
    "short_rows.csv": HEAD + "a\nb,2\nc,3\n",
    "long_row.csv": HEAD + "a,1\nb,2,3\nc,3\n",
    "nul.csv": HEAD + "a\0b,1\nb,2\n\0,3\n",
    "returns.csv": "prompt,completion\ra,1\rb,2\rc,3",
    "mixed_returns.csv": HEAD + "a\rb,c\nd,e\r\n\rf,g\n",
    "quoted_line_ends.csv": 'prompt,completion\r\n"a\r\nx",1\r\nb,"2\ry"\r\nc,3\r\n',
    "quotes.csv": HEAD + 'a"b"c,"x"y"z\n"q""r",s\nt,u',
    "lone_quote.csv": HEAD + ',a\n"',
    "open_quote.csv": HEAD + 'a,b\nb,"2\nc',
    "mark.csv": "\ufeff" + HEAD + "a,1\nb,2\n",
    "mark_and_quote.csv": '\ufeff"prompt",completion\na,1\nb,2\n',
    "separators.csv": HEAD + "a\x0cb,c\x1cd\u2028e\x85\n\x0c\nf,g\nh,i",
    "latin.csv": (HEAD + "é,b\nc,d\n").encode("latin-1"),
    "header_in_quotes.csv": '"prompt","completion"\na,b\nc,d\n',
    # reading: values of JSON
    "nothing.jsonl": jsonl(
        {"prompt": None, "completion": "b"},
        {"completion": "x"},
        {"prompt": "k"},
        {"prompt": "c", "completion": "d"},
    ),
    "numbers.jsonl": jsonl(
        *(
            {"prompt": number, "completion": value}
            for number, value in enumerate(["b", 3.5, True, [1, "a", None, 0.5], {"a": 1.0}])
        )
    ),
    "reals.jsonl": jsonl({"prompt": 1, "completion": 1.5}, {"completion": 2}, {"prompt": 3, "completion": 2e20}),
    "truths.jsonl": jsonl(
        {"prompt": True, "completion": 1.5}, {"completion": True}, {"prompt": False, "completion": None}
    ),
    "large_and_negative_and_missing.jsonl": jsonl(
        {}, {"prompt": "", "completion": 2**63}, {"prompt": "b", "completion": -1}
    ),
    "large_and_missing.jsonl": jsonl({}, {"prompt": "", "completion": 2**63}, {"prompt": "b", "completion": 1}),
    "large_and_null.jsonl": jsonl(
        {"prompt": "a", "completion": None}, {"prompt": "", "completion": 2**63}, {"prompt": "b", "completion": 1}
    ),
    "large_and_negative.jsonl": jsonl(
        {"prompt": "a", "completion": 2**63}, {"prompt": "c", "completion": -5}, {"prompt": "b", "completion": 1}
    ),
    "large_and_negative_and_real.jsonl": jsonl(
        {"prompt": "a", "completion": 2**63}, {"prompt": "c", "completion": -5}, {"prompt": "b", "completion": 0.5}
    ),
    "large_and_real_and_missing.jsonl": jsonl(
        {"prompt": "a", "completion": 2**63}, {"prompt": "c"}, {"prompt": "b", "completion": 0.5}
    ),
    "integers_and_null.jsonl": jsonl(
        {"prompt": 2**53 + 1, "completion": "b"},
        {"prompt": None, "completion": "c"},
        {"prompt": 3, "completion": "d"},
    ),
    "null_and_missing.jsonl": jsonl({"prompt": "a", "completion": None}, {"prompt": "b"}, {"prompt": "c"}),
    "large.jsonl": jsonl({"prompt": 2**64 - 1, "completion": "b"}, {"prompt": -2, "completion": "c"}),
    "too_large.jsonl": jsonl({"prompt": 2**64, "completion": "b"}, {"prompt": -2, "completion": "c"}),
    "escapes.jsonl": pairs(("".join(map(chr, range(1, 33))) + "\x7f\u2028/\\\"é😀<>&'", "x"), ("c", "d")),
    "nul.jsonl": pairs(("a\0b", "b"), ("c", "d")),
    # 1: count
    "count.csv": HEAD + "".join(f'"{prompt}","{completion}"\n' for prompt, completion in MANY),
    # two and three: columns
    "case.jsonl": jsonl({"Prompt": "a", "COMPLETION": "b"}, {"Prompt": "c", "COMPLETION": "d"}),
    "both_cases.csv": "PROMPT,Prompt,completion\na,b,c\nd,e,f\n",
    "repeated_column.csv": "prompt,prompt,completion\na,b,c\nd,e,f\n",
    "space_in_name.csv": "prompt, completion\na,b\nc,d\n",
    "no_prompt.csv": "question,completion\na,b\nc,d\n",
    "no_completion.json": '[{"prompt":"a"},{"prompt":"b"}]',
    # 4: more columns
    "more_columns.csv": "id,prompt,note,completion\n0,a,n,b\n1,c,n,d\n",
    "more_keys.jsonl": jsonl({"prompt": "a", "x": [1], "completion": "b"}, {"completion": "d", "prompt": "c"}),
    "unnamed_first.csv": ",prompt,completion\n0,a,b\n1,c,d\n2,e,f\n",
    # 5: empty completions
    "empty.jsonl": pairs(("a", ""), ("b", "x"), ("c", ""), ("d", "y")),
    # 6: classification, and its split
    "classes.jsonl": pairs(*LABELS),
    "classes.csv": HEAD + "".join(f"{prompt},{completion}\n" for prompt, completion in LABELS),
    "many_classes.jsonl": pairs(*((f"text {number} ###", f" class {number % 7}") for number in range(60))),
    "one_class.jsonl": pairs(*((f"text {number} ###", " same") for number in range(10))),
    "classes_of_1300.jsonl": pairs(*((f"{number} ->", f" {number % 2}") for number in range(1300))),
    # 7: duplicates
    "duplicates.jsonl": pairs(("a", "x"), ("a", "x"), ("b", "x"), ("a", "y"), ("a", "x")),
    # 8: long rows
    "long.jsonl": pairs(("a", "x" * 10_000), ("b", "y" * 9_999), ("c", "z")),
    "long_after_empty.jsonl": pairs(("a", ""), ("b", "y"), ("c", "z" * 10_001), ("d", "u"), ("e", "v")),
    "long_after_duplicate.jsonl": pairs(("b", "y"), ("b", "y"), ("d", "u"), ("c", "z" * 10_001), ("e", "v")),
    "long_without_prompts.txt": "x" * 20_000 + "\nshort",
    # 9, 10: upper case
    "upper.jsonl": pairs(("ABC", "x"), ("DEf", "y")),
    "upper_completions.jsonl": pairs(("abc", "ÄÖX Straße"), ("def", "İST OK")),
    "third.jsonl": pairs(("ABcd", "x"), ("efgh", "AByzuv")),
    # 11: separator
    "separator.csv": HEAD + "a,b\nc,d\n",
    "has_separator.jsonl": pairs(("a ->", " x\n"), ("b ->", " y\n")),
    "long_separator.jsonl": pairs(("a --------------->", " x\n"), ("b --------------->", " y\n")),
    "separator_twice.jsonl": pairs(("a ### b ###", " x\n"), ("c ###", " y\n")),
    "separator_taken.jsonl": pairs(("a -> b", " x\n"), ("c\n\n###\n\nd", " y\n")),
    "separators_taken.jsonl": pairs(
        ("a -> b\n\n###\n\nc\n\n===\n\nd\n\n---\n\ne\n\n===>\n\nf\n\n--->\n\ng", " x\n"), ("h", " y\n")
    ),
    "same_prompts.csv": HEAD + "a,b\na,c\n",
    # 12: prompt prefix
    "prefix.jsonl": pairs(("Write a text for: Rome", "x"), ("Write a text for: Oslo", "y")),
    "short_prefix.jsonl": pairs(("For: Rome", "x"), ("For: Oslo", "y")),
    # 13: completion prefix
    "completion_prefix.jsonl": pairs(("a", "Dear client, x"), ("b", "Dear client, y")),
    "completion_prefix_with_space.jsonl": pairs(("a", " Dear client, x"), ("b", " Dear client, y")),
    "completion_is_prefix.jsonl": pairs(("a", "Hello"), ("b", "Hello you"), ("c", "Hello all")),
    # 14: ending
    "has_ending.jsonl": pairs(("a", " x END"), ("b", " y END")),
    "long_ending.jsonl": pairs(("a", " x, and that is it."), ("b", " y, and that is it.")),
    "ending_taken.jsonl": pairs(("a", " x\n."), ("b", " y END ***")),
    "endings_taken.jsonl": pairs(("a", " x\n. END***+++&&&$$$@@@%%%u"), ("b", " y")),
    "same_completions.csv": HEAD + "a,b\nc,b\n",
    # 15: leading space
    "some_spaces.jsonl": pairs(("a ->", " x\n"), ("b ->", "y\n")),
    "nothing_to_do.jsonl": pairs(*((f"{prompt} ->", f" {completion}\n") for prompt, completion in MANY)),
    "open_ended.jsonl": pairs(*(("", f" {completion}") for _, completion in MANY)),
    "stem.with.dots.csv": HEAD + "a,b\nc,d\n",
    "name with spaces.csv": HEAD + "a,b\nc,d\n",
}


def assert_same(oracle: Oracle, prepare: Prepare, path: Path) -> None:
    verdict = oracle.prepare(path)
    before = path.read_bytes()
    if verdict.outcome == "refused" or leaves_nothing(verdict.files):
        with pytest.raises(AsyncgenError):
            prepare(path)
    elif verdict.outcome == "done":
        result, files = prepare(path)
        assert files == verdict.files
        assert result.outcome == ("written" if files else "fits")
    else:
        prepare_where_legacy_crashes(prepare, path)
    assert path.read_bytes() == before


def leaves_nothing(files: dict[str, bytes]) -> bool:
    """The legacy tool writes a file of one blank line where no row is left; that is an error here."""
    return list(files.values()) == [b"\n"]


def prepare_where_legacy_crashes(prepare: Prepare, path: Path) -> None:
    """It either works or says why not; a bug would be another exception."""
    with suppress(AsyncgenError):
        prepare(path)


@pytest.mark.parametrize("name", CORPUS)
def test_each_file_of_the_corpus_becomes_what_the_legacy_tool_makes_of_it(
    oracle: Oracle, prepare: Prepare, tmp_path: Path, name: str
) -> None:
    content = CORPUS[name]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_same(oracle, prepare, path)


SHEETS: dict[str, list[list[list[Any]]]] = {
    "plain": [[["prompt", "completion"], ["a", "b"], ["c", "d"]]],
    "numbers": [[["prompt", "completion"], [1, 2.5], [3.0, True], [1e20, -0.5], ["x", 12345678901234]]],
    "numbers_only": [[["prompt", "completion"], [1, 2.5], [3.0, 4], [5, 7.25]]],
    "dates": [
        [
            ["prompt", "completion"],
            [datetime(2024, 2, 29, 12, 30, 15), date(2024, 2, 29)],  # noqa: DTZ001 - a cell has no time zone
            [time(8, 15), "x"],
        ]
    ],
    "gaps": [[["prompt", "completion"], ["a", "b"], [], ["c", None], [None, "d"], ["e", "f"], [], []]],
    "words": [[["prompt", "completion"], ["NA", "b"], ["c", "null"], ["e", "#N/A"], ["g", "h"]]],
    "more_columns": [[["id", "prompt", None, "completion"], [0, "a", "n", "b"], [1, "c", "n", "d"]]],
    "wider_rows": [[["prompt", "completion"], ["a", "b", "c"], ["d", "e"]]],
    "case": [[["PROMPT", "Completion"], ["a", "b"], ["c", "d"]]],
    "two_sheets": [
        [["prompt", "completion"], ["a", "b"], ["c", "d"]],
        [["prompt", "completion"], ["e", "f"]],
    ],
    "blank_first_row": [[[], ["prompt", "completion"], ["a", "b"], ["c", "d"]]],
    "empty": [[]],
    "header_only": [[["prompt", "completion"]]],
    "no_prompt": [[["question", "completion"], ["a", "b"]]],
}


@pytest.mark.parametrize("name", SHEETS)
def test_each_workbook_becomes_what_the_legacy_tool_makes_of_it(
    oracle: Oracle, prepare: Prepare, tmp_path: Path, name: str
) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    workbook = openpyxl.Workbook()
    workbook.remove(workbook.active)
    for sheet in SHEETS[name]:
        rows = workbook.create_sheet()
        for row in sheet:
            rows.append(row)
    path = tmp_path / f"{name}.xlsx"
    workbook.save(path)
    assert_same(oracle, prepare, path)


# Short texts of few letters, so that common beginnings and ends, duplicates and separators come about.
LETTERS = "ab A.\n\r\"',/\\é İ#=->"
text = st.one_of(
    st.text(st.sampled_from(LETTERS), max_size=6),
    st.sampled_from(
        [
            "",
            " ",
            "NA",
            "null",
            "a ->",
            "b ->",
            "x\n\n###\n\n",
            " END",
            "Write a text for: ",
            " Dear client, ",
        ]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
)
rows = st.lists(st.tuples(text, text), max_size=12)
few_classes = st.lists(st.tuples(text, st.sampled_from([" yes", " no"])), min_size=7, max_size=14)
value = st.one_of(
    text,
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.one_of(st.integers(-9, 9), st.text(st.sampled_from("ab'"), max_size=2)), max_size=2),
)
row = st.fixed_dictionaries({}, optional={"prompt": value, "completion": value, "note": value})

against_legacy = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def compare(oracle: Oracle, prepare: Prepare, name: str, content: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content.encode())
        assert_same(oracle, prepare, path)


def quoted(rows: list[tuple[str, str]], delimiter: str, end: str) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=end)
    if any("\r" in cell for row in rows for cell in row):  # which the csv module leaves without quotes
        writer = csv.writer(buffer, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("prompt", "completion"), *rows])
    return buffer.getvalue()


@given(rows=st.one_of(rows, few_classes), delimiter=st.sampled_from(",\t"), end=st.sampled_from(["\n", "\r\n"]))
@against_legacy
def test_any_rows_written_as_csv_or_tsv_become_the_same(
    oracle: Oracle, prepare: Prepare, rows: list[Any], delimiter: str, end: str
) -> None:
    compare(oracle, prepare, "made.csv" if delimiter == "," else "made.tsv", quoted(rows, delimiter, end))


@given(body=st.lists(st.sampled_from(["a", "b", ",", '"', "\n", "\r\n", "\t", " ", "1"]), max_size=40).map("".join))
@against_legacy
def test_any_scribble_under_a_csv_header_becomes_the_same(oracle: Oracle, prepare: Prepare, body: str) -> None:
    compare(oracle, prepare, "made.csv", HEAD + body)


@given(rows=st.one_of(rows, few_classes))
@against_legacy
def test_any_rows_written_as_jsonl_become_the_same(oracle: Oracle, prepare: Prepare, rows: list[Any]) -> None:
    compare(oracle, prepare, "made.jsonl", pairs(*rows))


@given(rows=st.lists(row, min_size=2, max_size=6), name=st.sampled_from(["made.jsonl", "made.json"]))
@against_legacy
def test_any_values_in_json_become_the_same(oracle: Oracle, prepare: Prepare, rows: list[Any], name: str) -> None:
    compare(oracle, prepare, name, jsonl(*rows))


@given(lines=st.lists(text, max_size=12))
@against_legacy
def test_any_lines_become_the_same(oracle: Oracle, prepare: Prepare, lines: list[str]) -> None:
    compare(oracle, prepare, "made.txt", "\n".join(lines))
