"""The same samples in any kind of file give the same result, every row is a sample or told, and no file is a crash."""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncgen.dataset.files.forms import WantedColumns
from asyncgen.dataset.files.json_rows import compact_json
from asyncgen.dataset.prepare_file import PreparedFile, prepare_file
from asyncgen.errors import AsyncgenError
from asyncgen.job.model import DatasetSettings
from asyncgen.providers.profiles import PROFILES

if TYPE_CHECKING:
    from collections.abc import Sequence

few_examples = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
Pairs = list[tuple[str, str]]


class Yes:
    """Says yes to everything, and remembers what it heard."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def found(self, text: str) -> None:
        self.heard.append(text)

    def necessary(self, text: str) -> None:
        self.heard.append(text)

    def accepts(self, question: str) -> bool:
        return bool(question)

    def insists(self, question: str) -> bool:
        return not question


def prepare(path: Path, *, provider: str = "custom", wanted: WantedColumns | None = None, **given: Any) -> PreparedFile:
    return prepare_file(path, Yes(), DatasetSettings(**given), PROFILES[provider], wanted)


def samples(path: Path, **given: Any) -> list[Any]:
    prepared = prepare(path, **given)
    lines = [json.loads(line) for file in prepared.files or (path,) for line in file.read_text().splitlines()]
    assert len(lines) + sum(prepared.left_out.values()) == prepared.read
    return lines


def contents(path: Path, **given: Any) -> Pairs:
    """Prompt and completion of each sample that a file becomes."""
    return [tuple(message["content"] for message in line["messages"]) for line in samples(path, **given)]


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def write_csv(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_ALL, delimiter="\t" if path.suffix == ".tsv" else ",").writerows(
        [("prompt", "completion"), *rows]
    )
    path.write_bytes(buffer.getvalue().encode())
    return path


def write_xlsx(path: Path, rows: Sequence[tuple[Any, Any]]) -> Path:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (("prompt", "completion"), *rows):
        book.active.append(row)
    book.save(path)
    return path


def write_parquet(path: Path, columns: dict[str, Any]) -> Path:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table(columns), path)
    return path


# Values as JSON means them


@pytest.mark.parametrize(
    "literal",
    ["0.7", "0.3", "0.57", "2.675", "1", "1e-3", "-0", "12345678901234567890", "true", "false",
     '{"text":"Stay","n":null,"ok":true,"x":[1.50,1e5]}', '["x"]', '[{"a":"é\\\\n"}]'],
)  # fmt: skip
def test_a_value_keeps_the_text_that_json_has_for_it_whatever_stands_in_other_rows(
    tmp_path: Path, literal: str
) -> None:
    row = f'{{"prompt": "a", "completion":  {literal} }}'
    path = jsonl(tmp_path / "a.jsonl", row, {"prompt": "b", "completion": None}, {"prompt": "c", "completion": 2.5})
    [(_, content), last] = contents(path)
    assert content == literal
    assert json.loads(content) == json.loads(literal)
    assert last == ("c", "2.5")


json_values = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner | st.none(), max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, st.sampled_from([None, 1, 3]), st.booleans())
def test_compact_json_is_the_same_value(value: Any, indent: int | None, ascii_only: bool) -> None:
    if "\\ud" in json.dumps(value) and not ascii_only:
        return
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert json.loads(compact_json(text)) == value


def test_null_and_missing_are_taken_out_like_empty_cells(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": None},
                 {"prompt": "d"}, {"completion": "e"}, {"prompt": None, "completion": "f"}, {})  # fmt: skip
    prepared = prepare(path)
    assert (prepared.read, prepared.samples, prepared.left_out) == (6, (1,), {"empty": 5})
    assert contents(write_csv(tmp_path / "a.csv", [("a", "b"), ("c", ""), ("d", ""), ("", "e"), ("", "f")])) == [
        ("a", "b")
    ]


def test_words_for_nothing_in_other_programs_are_texts_here(tmp_path: Path) -> None:
    rows = [("a", "NA"), ("b", "null"), ("c", "nan"), ("d", "None")]
    assert contents(write_csv(tmp_path / "a.csv", rows)) == rows


@pytest.mark.parametrize("prompt", [["x"], {"a": 1}])
def test_a_prompt_that_is_no_text_is_told_with_its_line(tmp_path: Path, prompt: Any) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "a", "completion": "b"}, {"prompt": prompt, "completion": "b"})
    with pytest.raises(AsyncgenError) as raised:
        prepare(path)
    assert f"{path}:2: `prompt` is " in str(raised.value.cause)


text = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8) | st.sampled_from(
    ["", " ", "\u00a0", "NA", "0.7", "true", 'he said "hi", then', "a\nb", "=1+1", "[x]"]
)
tables = st.lists(st.tuples(text, text), min_size=1, max_size=6)


@given(tables)
@few_examples
def test_the_same_table_gives_the_same_samples_in_every_kind_of_file(rows: Pairs) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        objects = [{"prompt": prompt, "completion": completion} for prompt, completion in rows]
        files = [
            jsonl(base / "a.jsonl", *objects),
            write_csv(base / "b.csv", rows),
            write_csv(base / "c.tsv", rows),
            write_parquet(base / "d.parquet", {name: [row[name] for row in objects] for name in objects[0]}),
        ]
        (base / "e.json").write_text(json.dumps(objects, indent=2))
        expected = list(dict.fromkeys((a.strip(), b.strip()) for a, b in rows if a.strip() and b.strip()))
        for path in [*files, base / "e.json"]:
            if expected:
                assert contents(path) == expected, path
            else:
                with pytest.raises(AsyncgenError):
                    prepare(path)


@given(st.lists(st.tuples(text.filter(lambda cell: not cell.startswith("=")), st.text("ab ", max_size=3)), max_size=4))
@settings(max_examples=10, deadline=None)
def test_a_sheet_gives_the_samples_of_the_same_table(rows: Pairs) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        full = [*rows, ("last", "row")]
        found = [contents(path) for path in (write_csv(base / "a.csv", full), write_xlsx(base / "b.xlsx", full))]
    assert found[0] == found[1]


# Forms


def chat(*contents: str) -> dict[str, Any]:
    roles = ["user", "assistant"] * len(contents)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]}


FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "alpaca": ({"instruction": "Sum", "input": "1+1", "output": "2"}, chat("Sum\n\n1+1", "2")),
    "alpaca without input": ({"instruction": "Say hi", "input": "", "output": "hi"}, chat("Say hi", "hi")),
    "alpaca with history": (
        {"instruction": "c", "output": "d", "history": [["a", "b"]]},
        chat("a", "b", "c", "d"),
    ),
    "sharegpt": (
        {"id": "1", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        chat("a", "b"),
    ),
    "sharegpt with system": (
        {"system": "s", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"messages": [{"role": "system", "content": "s"}, *chat("a", "b")["messages"]]},
    ),
    "trl": ({"prompt": chat("a")["messages"], "completion": [{"role": "assistant", "content": "b"}]}, chat("a", "b")),
    "chat": (chat("a", "b"), chat("a", "b")),
    "pair": ({"Prompt": "a", "Completion": "b"}, chat("a", "b")),
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form_becomes_chats(tmp_path: Path, name: str) -> None:
    row, expected = FORMS[name]
    assert samples(jsonl(tmp_path / "a.jsonl", row, row)) == [expected]
    (tmp_path / "array.json").write_text(json.dumps([row, row]))
    (tmp_path / "wrapped.json").write_text(json.dumps({"version": 1, "data": [row]}))
    (tmp_path / "one_line.jsonl").write_text(json.dumps([row]))
    for file in ("array.json", "wrapped.json", "one_line.jsonl"):
        assert samples(tmp_path / file) == [expected], file


TEXTS = {"prompt": "a", "chosen": "b", "rejected": "c"}
MESSAGES = {
    "prompt": chat("a")["messages"],
    "chosen": chat("a", "b")["messages"],
    "rejected": [{"role": "assistant", "content": "c"}],
}
PREFERENCE = {
    "input": chat("a"),
    "preferred_output": [{"role": "assistant", "content": "b"}],
    "non_preferred_output": [{"role": "assistant", "content": "c"}],
}


@pytest.mark.parametrize(
    "row",
    [TEXTS, MESSAGES, PREFERENCE, {"chosen": chat("a", "b")["messages"], "rejected": chat("a", "c")["messages"]}],
    ids=["texts", "messages", "openai", "implicit prompt"],
)
def test_each_form_of_preferences_becomes_openais(tmp_path: Path, row: dict[str, Any]) -> None:
    rows = [json.loads(json.dumps(row).replace('"a"', f'"a{number}"')) for number in range(10)]
    found = samples(jsonl(tmp_path / "a.jsonl", *rows), provider="openai")
    assert len(found) == 10
    assert found[0] == json.loads(json.dumps(PREFERENCE).replace('"a"', '"a0"'))


def test_several_forms_in_one_file_are_refused_with_their_lines(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "a", "completion": "b"}, chat("a", "b"), {"x": 1})
    with pytest.raises(AsyncgenError, match="3 different formats") as raised:
        prepare(path)
    for part in ("prompt and completion: line 1", "chat: line 2", "none that is known: line 3"):
        assert part in str(raised.value.cause)


def test_a_text_of_parquet_that_is_not_utf_8_is_told_with_its_row(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    offsets, data = pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")
    broken = pa.Array.from_buffers(pa.string(), 1, [None, offsets, data])
    path = write_parquet(tmp_path / "a.parquet", {"prompt": broken, "completion": ["b"]})
    with pytest.raises(AsyncgenError, match="near row 1") as raised:
        samples(path)
    assert raised.value.cause == "a text is not UTF-8"


def test_a_cell_of_parquet_that_json_cannot_have_is_told_with_its_own_row(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"prompt": [1.0, math.inf], "completion": ["a", "b"]})
    with pytest.raises(AsyncgenError, match="near row 2,") as raised:
        samples(path)
    assert raised.value.cause == "a number is infinite"


def test_a_parquet_file_that_is_cut_off_is_told_in_our_words(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"prompt": ["a"], "completion": ["b"]})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(AsyncgenError, match="cannot be read as Parquet") as raised:
        samples(path)
    assert raised.value.cause == "it is damaged, or not a Parquet file"


def test_messages_in_parquet_lose_the_empty_fields_of_their_structs(tmp_path: Path) -> None:
    rows = [[{"role": "user", "content": "a", "name": None}, {"role": "assistant", "content": "b", "name": None}]]
    assert samples(write_parquet(tmp_path / "a.parquet", {"messages": rows, "id": [1]})) == [chat("a", "b")]


def test_columns_of_other_names_are_asked_for_and_taken_when_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question;answer\nq,1;a\n")
    with pytest.raises(AsyncgenError, match="has no column `prompt`"):
        prepare(path)
    assert contents(path, wanted=WantedColumns("question", "answer")) == [("q,1", "a")]


def test_reasoning_is_taken_where_the_provider_takes_it(tmp_path: Path) -> None:
    row = chat("a", "b")
    row["messages"][1]["reasoning_content"] = "so"
    path = jsonl(tmp_path / "a.jsonl", *[row] * 10)
    assert samples(path)[0] == row
    with pytest.raises(AsyncgenError, match="would refuse"):
        prepare(path, provider="openai")


def test_answers_that_begin_with_reasoning_are_counted(tmp_path: Path) -> None:
    dialogue = Yes()
    path = write_csv(tmp_path / "a.csv", [("a", "<think>x</think>b"), ("c", "<thinking>d"), ("e", "f")])
    prepare_file(path, dialogue, DatasetSettings(), PROFILES["custom"])
    assert any("2 answers begin with reasoning" in said and "lines 2, 3" in said for said in dialogue.heard)


def test_a_system_message_is_put_before_chats_that_have_none(tmp_path: Path) -> None:
    own = {"messages": [{"role": "system", "content": "mine"}, *chat("a", "b")["messages"]]}
    found = samples(jsonl(tmp_path / "a.jsonl", own, chat("c", "d")), system="Sell.")
    assert [line["messages"][0]["content"] for line in found] == ["mine", "Sell."]


# CSV as people have it


@pytest.mark.parametrize(
    "content",
    ["prompt;completion\na;b, c\n", "prompt\tcompletion\na\tb, c\n", "prompt|completion\na|b, c\n",
     "sep=;\nprompt;completion\na;b, c\n",
     'prompt, completion\na,"b, c"\n', '\ufeff"Prompt","COMPLETION "\r\na,"b, c"\r\n',
     'prompt,completion\r\r\na,"b, c"\r\r\n',
     "\n\nprompt;completion\n\n   \na;b, c\n", ',prompt,completion\n0,a,"b, c"\n'],
)  # fmt: skip
def test_delimiters_blanks_and_marks_are_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode())
    assert contents(path) == [("a", "b, c")]


@pytest.mark.parametrize(
    ("line", "cells"), [("hotel,Stay, offer!", 3), ('p0,"he said \\"hi\\", then 0"', 3), ("only a prompt", 1)]
)
def test_rows_that_do_not_fit_their_header_are_refused_with_line_and_counts(
    tmp_path: Path, line: str, cells: int
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'prompt,completion\na,"b\nc"\n{line}\n')
    with pytest.raises(AsyncgenError, match=rf"a\.csv:4: the row has {cells} cells?, but the header has 2"):
        prepare(path)


@pytest.mark.parametrize("name", ["a.csv", "a.xlsx", "a.jsonl", "a.parquet"])
def test_a_table_without_rows_is_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("xlsx"):
        write_xlsx(path, [])
    elif name.endswith("parquet"):
        pa = pytest.importorskip("pyarrow")
        write_parquet(path, {"prompt": pa.array([], pa.string()), "completion": pa.array([], pa.string())})
    else:
        path.write_text("prompt,completion\n" if name.endswith("csv") else "")
    with pytest.raises(AsyncgenError, match=r"no rows|is empty"):
        prepare(path)


# What is almost JSON


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{'prompt': 'a', 'completion': 'b'}", "Python syntax"),
        ('{"prompt": "a", "completion": None}', "Python syntax"),
        ('{"prompt": "a", "completion": "b"},', "there is a comma after the object (column 35)"),
        ('{"prompt": "a"}{"prompt": "b"}', "another object follows"),
        ('{"prompt": "a", "score": NaN}', "NaN is not JSON; write null"),
        ('{"prompt": "\\ud83d", "completion": "b"}', "half of a surrogate pair"),
        ('{"prompt": "a",', "spans several lines"),
        ('{"prompt": "a", "completion": ' + "[" * 5000 + "}", "nested too deeply"),
        ('["a"]', "expected an object, found an array"),
    ],
)
@pytest.mark.parametrize("place", [1, 2])
def test_a_line_that_is_almost_json_is_told_with_its_number_and_the_remedy(
    tmp_path: Path, line: str, words: str, place: int
) -> None:
    lines: list[Any] = [{"prompt": "x", "completion": "y"}] * 2
    path = jsonl(tmp_path / "a.jsonl", *lines[: place - 1], line, *lines)
    if line.startswith("[") and place == 1:
        pytest.skip("an array on the first line is a document")
    with pytest.raises(AsyncgenError) as raised:
        prepare(path)
    assert f"a.jsonl:{place}: " in str(raised.value.cause)
    assert words in str(raised.value.cause)


def test_chats_nested_deeper_than_a_line_can_be_written_are_told(tmp_path: Path) -> None:
    deep = f'{{"messages":[{{"role":"user","content":{"[" * 300}{"]" * 300}}}]}}'
    path = jsonl(tmp_path / "a.jsonl", chat("a", "b"), deep)
    with pytest.raises(AsyncgenError) as raised:
        prepare(path)
    assert "a.jsonl:2: the line is nested too deeply" in str(raised.value.cause)


# Any bytes, any tables


@given(
    st.sampled_from([".csv", ".tsv", ".json", ".jsonl", ".txt", ".xlsx", ".parquet"]),
    st.binary(max_size=60)
    | st.lists(
        st.sampled_from(
            [b'{"prompt":', b'"completion":', b'"messages":', b"[", b"]", b"{", b"}", b'"a"', b",", b"null", b"1e999",
             b"\n", b"\r", b"\xff\xfe", b"\xef\xbb\xbf", b'"role":"user"', b'"content":', b"\\ud800",
             b"prompt,completion\n",
             b";", b'"', b"\t", b"\0", b"PAR1", b"PK\x03\x04", b"conversations", b"0" * 40]
        ),
        max_size=25,
    ).map(b"".join),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_result_or_an_error_of_ours(suffix: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        path.write_bytes(content)
        prepared = None
        with suppress(AsyncgenError):
            prepared = prepare(path)
        if prepared is not None:
            assert sum(prepared.samples) + sum(prepared.left_out.values()) == prepared.read


rows_of_any_kind = st.dictionaries(
    st.sampled_from(["prompt", "completion", "messages", "conversations", "instruction", "output", "input", "chosen",
                     "rejected", "preferred_output", "system", "history", "tools", "x"]),
    st.none() | json_values | st.lists(
        st.dictionaries(st.sampled_from(["role", "content", "from", "value", "tool_calls"]),
                        st.sampled_from(["user", "assistant", "human", "gpt", "a", ""]) | json_values, max_size=3),
        max_size=3,
    ),
    max_size=4,
)  # fmt: skip


@given(st.lists(rows_of_any_kind, max_size=4), st.sampled_from([None, "Sell."]), st.sampled_from([0, 0.3]))
@settings(max_examples=200, deadline=None)
def test_any_rows_give_a_result_that_counts_them_all_or_an_error_of_ours(
    rows: list[Any], system: str | None, validation: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = jsonl(Path(folder) / "a.jsonl", *rows)
        prepared = None
        with suppress(AsyncgenError):
            prepared = prepare(path, system=system, validation=validation)
        if prepared is not None:
            assert sum(prepared.samples) + sum(prepared.left_out.values()) == prepared.read == len(rows)


def test_files_of_other_kinds_are_refused_with_what_to_do(tmp_path: Path) -> None:
    for name, words in [("a.xls", "save it as .xlsx"), ("a.ods", "save it as .xlsx"), ("a b.gz", "gunzip -k '")]:
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(AsyncgenError) as raised:
            prepare(tmp_path / name)
        assert words in str(raised.value.help_text)


def test_a_name_that_leaves_no_room_for_the_results_is_told(tmp_path: Path) -> None:
    path = jsonl(tmp_path / ("x" * 248 + ".jsonl"), {"prompt": "a", "completion": "b"})
    with pytest.raises(AsyncgenError, match="is too long"):
        prepare(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_number_in_the_results_name_is_told(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "a", "completion": "b"})
    prepare(path)
    dialogue = Yes()
    prepare_file(path, dialogue, DatasetSettings(), PROFILES["custom"])
    assert any("a_prepared (1).jsonl" in said for said in dialogue.heard)


def test_no_validation_prompt_is_trained_on(tmp_path: Path) -> None:
    rows = [(f"prompt {number % 40}", f"answer {number}") for number in range(200)]
    prepared = prepare(write_csv(tmp_path / "a.csv", rows), validation=0.2)
    train, validation = (
        {json.loads(line)["messages"][0]["content"] for line in file.read_text().splitlines()}
        for file in prepared.files
    )
    assert not train & validation
    assert validation
